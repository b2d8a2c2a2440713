// The kernels of `cuda_kernels.py`, in CUDA C. REAL is float or double, set when the text is compiled.
//
// Arrays are contiguous (N, C, H, W). Every kernel gathers: one thread or block owns one result and adds in a fixed
// order, so nothing is added atomically and two runs are bit-equal. Loops run over a grid of any size.

// The compiler that CuPy uses knows no header, so no INFINITY and NAN either.
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
#ifndef NAN
#define NAN __int_as_float(0x7fffffff)
#endif

#define EACH(i, n) \
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < (n); i += (long long)gridDim.x * blockDim.x)


// y[n, o, i, j] = bias[o] + sum over c, p, q of x[n, c, i sh + p dh - top, j sw + q dw - left] weight[o, c, p, q]
extern "C" __global__ void conv2d(const REAL* __restrict__ x, const REAL* __restrict__ weight,
                                  const REAL* __restrict__ bias, REAL* __restrict__ y, int has_bias, int n, int c, int h,
                                  int w, int o, int kh, int kw, int oh, int ow, int sh, int sw, int top, int left, int dh,
                                  int dw, int groups) {
    int cg = c / groups, og = o / groups;
    EACH(t, (long long)n * o * oh * ow) {
        int j = t % ow, i = t / ow % oh, k = t / ((long long)ow * oh) % o;
        long long image = t / ((long long)ow * oh * o);
        const REAL* kernel = weight + (long long)k * cg * kh * kw;
        REAL sum = has_bias ? bias[k] : (REAL)0;
        for (int a = 0; a < cg; a++) {
            const REAL* map = x + ((image * c + k / og * cg + a) * h) * w;
            for (int p = 0; p < kh; p++) {
                int row = i * sh + p * dh - top;
                if (row < 0 || row >= h) continue;
                for (int q = 0; q < kw; q++) {
                    int column = j * sw + q * dw - left;
                    if (column >= 0 && column < w) sum += map[row * w + column] * kernel[(a * kh + p) * kw + q];
                }
            }
        }
        y[t] = sum;
    }
}

// gx[n, c, r, s] = sum over o, p, q of g[n, o, i, j] weight[o, c, p, q] for the i, j that saw (r, s) through (p, q)
extern "C" __global__ void conv2d_input_gradient(const REAL* __restrict__ g, const REAL* __restrict__ weight,
                                                 REAL* __restrict__ gx, int n, int c, int h, int w, int o, int kh, int kw,
                                                 int oh, int ow, int sh, int sw, int top, int left, int dh, int dw,
                                                 int groups) {
    int cg = c / groups, og = o / groups;
    EACH(t, (long long)n * c * h * w) {
        int s = t % w, r = t / w % h, a = t / ((long long)w * h) % c;
        long long image = t / ((long long)w * h * c);
        int group = a / cg;
        REAL sum = 0;
        for (int k = group * og; k < (group + 1) * og; k++) {
            const REAL* kernel = weight + ((long long)k * cg + a % cg) * kh * kw;
            const REAL* map = g + (image * o + k) * oh * ow;
            for (int p = 0; p < kh; p++) {
                int i = r + top - p * dh;
                if (i < 0 || i % sh || i / sh >= oh) continue;
                for (int q = 0; q < kw; q++) {
                    int j = s + left - q * dw;
                    if (j >= 0 && j % sw == 0 && j / sw < ow) sum += map[i / sh * ow + j / sw] * kernel[p * kw + q];
                }
            }
        }
        gx[t] = sum;
    }
}

// gw[o, c, p, q] = sum over n, i, j of g[n, o, i, j] x[n, c, i sh + p dh - top, j sw + q dw - left]; a block each
extern "C" __global__ void conv2d_weight_gradient(const REAL* __restrict__ x, const REAL* __restrict__ g,
                                                  REAL* __restrict__ gw, int n, int c, int h, int w, int o, int kh, int kw,
                                                  int oh, int ow, int sh, int sw, int top, int left, int dh, int dw,
                                                  int groups) {
    __shared__ REAL part[64];
    int cg = c / groups, og = o / groups, t = threadIdx.x;
    for (long long e = blockIdx.x; e < (long long)o * cg * kh * kw; e += gridDim.x) {
        int q = e % kw, p = e / kw % kh, a = e / (kw * kh) % cg, k = e / ((long long)kw * kh * cg);
        int channel = k / og * cg + a;
        REAL sum = 0;
        for (long long m = t; m < (long long)n * oh * ow; m += blockDim.x) {
            int j = m % ow, i = m / ow % oh;
            long long image = m / ((long long)ow * oh);
            int row = i * sh + p * dh - top, column = j * sw + q * dw - left;
            if (row >= 0 && row < h && column >= 0 && column < w)
                sum += g[((image * o + k) * oh + i) * ow + j] * x[((image * c + channel) * h + row) * w + column];
        }
        part[t] = sum;
        __syncthreads();
        for (int half = blockDim.x / 2; half; half /= 2) {
            if (t < half) part[t] += part[t + half];
            __syncthreads();
        }
        if (t == 0) gw[e] = part[0];
        __syncthreads();
    }
}

// The maximum of every window; outside counts as -inf, NaN is larger than everything.
extern "C" __global__ void max_pool2d(const REAL* __restrict__ x, REAL* __restrict__ y, int maps, int h, int w, int kh,
                                      int kw, int oh, int ow, int sh, int sw, int top, int left, int dh, int dw) {
    EACH(t, (long long)maps * oh * ow) {
        int j = t % ow, i = t / ow % oh;
        const REAL* map = x + t / ((long long)ow * oh) * h * w;
        REAL best = -INFINITY;
        for (int p = 0; p < kh; p++)
            for (int q = 0; q < kw; q++) {
                int row = i * sh + p * dh - top, column = j * sw + q * dw - left;
                if (row < 0 || row >= h || column < 0 || column >= w) continue;
                REAL v = map[row * w + column];
                if (v > best || v != v) best = v;
                if (best != best) p = kh, q = kw;
            }
        y[t] = best;
    }
}

// How much of the window at (i, j) belongs to the pixel (r, s): all to the first maximum, or equal shares.
__device__ REAL share_of(const REAL* map, REAL top_value, int r, int s, int i, int j, int h, int w, int kh, int kw, int sh,
                         int sw, int top, int left, int dh, int dw, int split) {
    bool nan = top_value != top_value;
    int before = 0, equal = 0;
    bool passed = false, mine = false;
    for (int p = 0; p < kh; p++)
        for (int q = 0; q < kw; q++) {
            int row = i * sh + p * dh - top, column = j * sw + q * dw - left;
            if (row < 0 || row >= h || column < 0 || column >= w) continue;
            REAL v = map[row * w + column];
            bool hit = nan ? v != v : v == top_value;
            if (row == r && column == s) passed = true, mine = hit;
            else if (hit && !passed) before++;
            equal += hit;
        }
    if (!mine) return (REAL)0;
    return split ? (REAL)1 / equal : (REAL)(before == 0);
}

// gx[r, s] = sum of g over the windows whose maximum is at (r, s)
extern "C" __global__ void max_pool2d_input_gradient(const REAL* __restrict__ g, const REAL* __restrict__ x,
                                                     const REAL* __restrict__ y, REAL* __restrict__ gx, int maps, int h,
                                                     int w, int kh, int kw, int oh, int ow, int sh, int sw, int top,
                                                     int left, int dh, int dw, int split) {
    EACH(t, (long long)maps * h * w) {
        int s = t % w, r = t / w % h;
        long long m = t / ((long long)w * h);
        const REAL* map = x + m * h * w;
        REAL sum = 0;
        for (int p = 0; p < kh; p++) {
            int i = r + top - p * dh;
            if (i < 0 || i % sh || i / sh >= oh) continue;
            for (int q = 0; q < kw; q++) {
                int j = s + left - q * dw;
                if (j < 0 || j % sw || j / sw >= ow) continue;
                long long at = (m * oh + i / sh) * ow + j / sw;
                REAL share = share_of(map, y[at], r, s, i / sh, j / sw, h, w, kh, kw, sh, sw, top, left, dh, dw, split);
                if (share != 0) sum += g[at] * share;
            }
        }
        gx[t] = sum;
    }
}

// losses[i] = ln sum exp z[i] - z[i, label], log_p = z - ln sum exp z; a label that is no class gives a NaN
extern "C" __global__ void softmax_cross_entropy(const REAL* __restrict__ z, const long long* __restrict__ labels,
                                                 REAL* __restrict__ losses, REAL* __restrict__ log_p, int n, int k) {
    EACH(i, n) {
        const REAL* row = z + i * k;
        REAL top = row[0], sum = 0;
        for (int a = 1; a < k; a++) top = row[a] > top ? row[a] : top;
        for (int a = 0; a < k; a++) sum += exp(row[a] - top);
        REAL shift = top + log(sum);
        for (int a = 0; a < k; a++) log_p[i * k + a] = row[a] - shift;
        long long label = labels[i];
        losses[i] = label >= 0 && label < k ? shift - row[label] : (REAL)NAN;
    }
}

// gz = g (p - one-hot label)
extern "C" __global__ void softmax_cross_entropy_gradient(const REAL* __restrict__ g, const REAL* __restrict__ log_p,
                                                          const long long* __restrict__ labels, REAL* __restrict__ gz,
                                                          int n, int k) {
    EACH(t, (long long)n * k) {
        long long i = t / k;
        gz[t] = g[i] * (exp(log_p[t]) - (REAL)(t % k == labels[i]));
    }
}

// mask[i]: whether element i stays when each is dropped with probability p; four elements per thread. The counter is
// (number of the four, number of the call), the key comes from the seed.
extern "C" __global__ void keep_mask(bool* __restrict__ mask, long long n, double p, long long key, long long call) {
    EACH(t, (n + 3) / 4) {
        Words words = philox((unsigned)t, (unsigned)(t >> 32), (unsigned)call, (unsigned)(call >> 32), (unsigned)key,
                             (unsigned)(key >> 32));
        for (int i = 0; i < 4 && t * 4 + i < n; i++) mask[t * 4 + i] = at_least(words.at[i], p);
    }
}

// Adam in one pass over p, m and v: Kingma & Ba, Algorithm 1. `rate` is lr / (1 - beta1^t), `root` is sqrt(1 - beta2^t),
// and rest1 and rest2 are 1 - beta1 and 1 - beta2, which would lose digits if they were subtracted as float.
extern "C" __global__ void adam_step(REAL* __restrict__ p, const REAL* __restrict__ g, REAL* __restrict__ m,
                                     REAL* __restrict__ v, REAL rate, REAL root, REAL beta1, REAL beta2, REAL rest1,
                                     REAL rest2, REAL eps, REAL coupled, REAL keep, long long n) {
    EACH(i, n) {
        REAL before = p[i] * keep, grad = g[i] + coupled * p[i];
        REAL mi = m[i] = beta1 * m[i] + rest1 * grad;
        REAL vi = v[i] = beta2 * v[i] + rest2 * grad * grad;
        p[i] = before - rate * (mi / (sqrt(vi) / root + eps));
    }
}
