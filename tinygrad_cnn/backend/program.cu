// The kernels of `device_program.py` that do not depend on the shape of a convolution, in CUDA C.
//
// Everything is added in a fixed order and nothing atomically: two runs are bit-equal. What changes from step to step
// stands in `state`, in device memory, so that a replayed graph needs no argument from the host.

// Places in `state`, doubles all: they hold counts up to 2^53 exactly.
#define LR 0
#define BETA1 1
#define BETA2 2
#define EPS 3
#define DECAY 4
#define DECOUPLED 5
#define STEPS 6        // that were taken
#define RATE 7         // lr / (1 - beta1^t) of the step under way
#define ROOT 8         // sqrt(1 - beta2^t)
#define SCALE 9        // of the loss
#define GROWTH 10      // steps since the scale changed
#define OVERFLOWED 11  // whether a gradient of the step under way is not finite
#define CURSOR 12      // which row of `order` is trained on
#define SKIPPED 13     // steps that were not taken because of an overflow
#define SCALING 14     // whether the scale adapts itself and steps can be skipped
#define INTERVAL 15    // steps without overflow after which the scale doubles
#define KEY0 16        // of the random numbers, two words
#define KEY1 17
#define DRAWS 18       // steps that have drawn since the seed was set

#define NO_CLASS (-9223372036854775807LL - 1)


extern "C" __global__ void set_options(double* state, double lr, double beta1, double beta2, double eps, double decay,
                                       double decoupled) {
    if (blockIdx.x || threadIdx.x) return;
    state[LR] = lr, state[BETA1] = beta1, state[BETA2] = beta2;
    state[EPS] = eps, state[DECAY] = decay, state[DECOUPLED] = decoupled;
}

extern "C" __global__ void set_value(double* state, int place, double value) {
    if (!blockIdx.x && !threadIdx.x) state[place] = value;
}

// A batch that somebody made, into the program's own memory.
extern "C" __global__ void load_batch(const REAL* __restrict__ x, const long long* __restrict__ labels,
                                      STORE* __restrict__ input, long long* __restrict__ targets,
                                      double* __restrict__ state, long long size, int n) {
    EACH(i, size) input[i] = narrow(x[i]);
    EACH(i, n) targets[i] = labels[i];
    if (!blockIdx.x && !threadIdx.x) state[CURSOR] = 0;
}

// Numbers of samples, the batches of a run one after the other.
extern "C" __global__ void load_order(const long long* __restrict__ rows, long long* __restrict__ order,
                                      double* __restrict__ state, long long size) {
    EACH(i, size) order[i] = rows[i];
    if (!blockIdx.x && !threadIdx.x) state[CURSOR] = 0;
}

// A batch out of a data set of bytes: rows order[cursor][...] of it, as (pixel - zero) / scale. A number that is none of
// a row gives zeros and a label that is no class, so that the loss is NaN and the parameters are not. A thread turns four neighbouring pixels, one word of memory, if rows consist of whole words.
extern "C" __global__ void gather_batch(const unsigned char* __restrict__ images, const long long* __restrict__ labels,
                                        const long long* __restrict__ order, const double* __restrict__ state,
                                        STORE* __restrict__ input, long long* __restrict__ targets, int n, int size,
                                        long long count, REAL zero, REAL scale) {
    const long long* rows = order + (long long)state[CURSOR] * n;
    int wide = size % 4 ? 1 : 4, groups = size / wide;
    EACH(t, (long long)n * groups) {
        long long row = rows[t / groups];
        long long at = t / groups * size + t % groups * wide;
        bool inside = row >= 0 && row < count;
        const unsigned char* pixels = images + (inside ? row * size + t % groups * wide : 0);
        unsigned word = wide == 4 ? *(const unsigned*)pixels : *pixels;
        for (int i = 0; i < wide; i++)
            input[at + i] = narrow(inside ? ((REAL)(word >> 8 * i & 255) - zero) / scale : (REAL)0);
    }
    EACH(i, n) {
        long long row = rows[i];
        targets[i] = row >= 0 && row < count ? labels[row] : NO_CLASS;
    }
}

// The parameters as they are read by the kernels, if these read another type.
extern "C" __global__ void to_storage(const REAL* __restrict__ flat, STORE* __restrict__ copy, long long n) {
    EACH(i, n) copy[i] = narrow(flat[i]);
}


// Linear layers -------------------------------------------------------------------------------------------------------
//
// A block of 256 threads computes a tile of 16 x 16 results, because at small batches there are few: 16 threads share
// each tile, 4 x 4 results per thread, and the 16 groups divide the depth of the sum among them. Two reads of four
// neighbours from shared memory then serve 16 multiplications, and many blocks are busy. The next slice of the operands
// travels to registers while this one is multiplied.

#define TILE 16
#define THREADS 256
#define DEPTH 128               // of a slice
#define PITCH 20                // between rows of a slice; see `place`
#define EACH_LOADS (DEPTH * TILE / THREADS)

struct Place { int k, m; };

// Where the i-th element that thread t loads stands in a slice (k, m). Along k, 8 neighbours are 32 bytes of float, the
// least that memory delivers, and with a pitch of 20 the 32 threads of a warp write to 32 banks.
template <bool ALONG_K>
__device__ Place place(int t, int i) {
    if (ALONG_K) return {(i * 2 + t / 128) * 8 + t % 8, t / 8 % 16};
    return {i * 16 + t / 16, t % 16};
}

// Element (k, m) of an operand is at k + m * stride along k, else at k * stride + m. Outside it is 0. With ONES there is
// one more m, which is 1 everywhere: its results are the sums of the other operand, the gradient of a bias.
template <bool ALONG_K, bool ONES>
__device__ void load(REAL* held, const STORE* __restrict__ from, int stride, int k0, int depth, int m0, int count) {
#pragma unroll
    for (int i = 0; i < EACH_LOADS; i++) {
        Place at = place<ALONG_K>(threadIdx.x, i);
        int k = k0 + at.k, m = m0 + at.m;
        bool inside = k < depth && m < count;
        held[i] = inside ? widen(from[ALONG_K ? (long long)m * stride + k : (long long)k * stride + m]) : (REAL)0;
        if (ONES && m == count && k < depth) held[i] = 1;
    }
}

template <bool ALONG_K>
__device__ void keep(REAL* slice, const REAL* held) {
#pragma unroll
    for (int i = 0; i < EACH_LOADS; i++) {
        Place at = place<ALONG_K>(threadIdx.x, i);
        slice[at.k * PITCH + at.m] = held[i];
    }
}

// Return result (row0 + t / 16, column0 + t % 16) of left^T right, summed over `depth`.
template <bool LEFT_K, bool RIGHT_K, bool ONES>
__device__ REAL product(REAL* memory, const STORE* left, int left_stride, int row0, int rows, const STORE* right,
                        int right_stride, int column0, int columns, int depth) {
    REAL *a = memory, *b = memory + DEPTH * PITCH;
    int t = threadIdx.x, group = t / 16, r = t % 16 / 4 * 4, c = t % 4 * 4;
    // The two groups of a warp read rows 4 apart, which with this pitch are 16 banks apart.
    int mine = (group & 1) * 4 + (group >> 1) % 4 + (group >> 3) * 8;
    REAL sums[4][4] = {}, next_a[EACH_LOADS], next_b[EACH_LOADS];
    load<LEFT_K, false>(next_a, left, left_stride, 0, depth, row0, rows);
    load<RIGHT_K, ONES>(next_b, right, right_stride, 0, depth, column0, columns);
    for (int k0 = 0; k0 < depth; k0 += DEPTH) {
        keep<LEFT_K>(a, next_a);
        keep<RIGHT_K>(b, next_b);
        __syncthreads();
        if (k0 + DEPTH < depth) {
            load<LEFT_K, false>(next_a, left, left_stride, k0 + DEPTH, depth, row0, rows);
            load<RIGHT_K, ONES>(next_b, right, right_stride, k0 + DEPTH, depth, column0, columns);
        }
        int here = depth - k0 < DEPTH ? depth - k0 : DEPTH;
        for (int k = 0; k < here; k += 16) {
            const REAL *x = a + (k + mine) * PITCH + r, *y = b + (k + mine) * PITCH + c;
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sums[i][j] += x[i] * y[j];
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) memory[group * THREADS + (r + i) * TILE + c + j] = sums[i][j];
    __syncthreads();
    REAL total = 0;
#pragma unroll
    for (int g = 0; g < THREADS / 16; g++) total += memory[g * THREADS + t];
    return total;
}

#define MEMORY (2 * DEPTH * PITCH)

// v = max(sum over k of x[n, k] weight[o, k] + bias[o], 0), the maximum if there is a ReLU, of the element of y that is
// this thread's; returns where that stands in y, -1 if outside.
__device__ long long linear_element(REAL* memory, const STORE* __restrict__ x, const STORE* __restrict__ weight,
                                    const STORE* __restrict__ bias, int has_bias, int relu, int n, int in, int out,
                                    REAL& v) {
    int tiles = (out + TILE - 1) / TILE, row0 = blockIdx.x / tiles * TILE, column0 = blockIdx.x % tiles * TILE;
    v = product<true, true, false>(memory, x, in, row0, n, weight, in, column0, out, in);
    int row = row0 + threadIdx.x / TILE, column = column0 + threadIdx.x % TILE;
    if (row >= n || column >= out) return -1;
    if (has_bias) v += widen(bias[column]);
    if (relu && v <= 0) v = 0;
    return (long long)row * out + column;
}

extern "C" __global__ void linear_forward(const STORE* __restrict__ x, const STORE* __restrict__ weight,
                                          const STORE* __restrict__ bias, STORE* __restrict__ y, int has_bias, int relu,
                                          int n, int in, int out) {
    __shared__ __align__(16) REAL memory[MEMORY];
    REAL v;
    long long at = linear_element(memory, x, weight, bias, has_bias, relu, n, in, out, v);
    if (at >= 0) y[at] = narrow(v);
}

// The same for the last layer, whose results stay REAL.
extern "C" __global__ void linear_logits(const STORE* __restrict__ x, const STORE* __restrict__ weight,
                                         const STORE* __restrict__ bias, REAL* __restrict__ y, int has_bias, int relu,
                                         int n, int in, int out) {
    __shared__ __align__(16) REAL memory[MEMORY];
    REAL v;
    long long at = linear_element(memory, x, weight, bias, has_bias, relu, n, in, out, v);
    if (at >= 0) y[at] = v;
}

// gw[o, k] = sum over n of g[n, o] x[n, k], gb[o] = sum over n of g[n, o]
extern "C" __global__ void linear_weight_gradient(const STORE* __restrict__ g, const STORE* __restrict__ x,
                                                  REAL* __restrict__ gw, REAL* __restrict__ gb, int has_bias, int n,
                                                  int in, int out) {
    __shared__ __align__(16) REAL memory[MEMORY];
    int columns = in + has_bias, tiles = (columns + TILE - 1) / TILE;
    int row0 = blockIdx.x / tiles * TILE, column0 = blockIdx.x % tiles * TILE;
    REAL v = product<false, false, true>(memory, g, out, row0, out, x, in, column0, in, n);
    int row = row0 + threadIdx.x / TILE, column = column0 + threadIdx.x % TILE;
    if (row >= out || column >= columns) return;
    if (column < in) gw[(long long)row * in + column] = v;
    else gb[row] = v;
}

// gx[n, k] = sum over o of g[n, o] weight[o, k], and with `relu` 0 where x[n, k], which a ReLU made, is not above 0
extern "C" __global__ void linear_input_gradient(const STORE* __restrict__ g, const STORE* __restrict__ weight,
                                                 const STORE* __restrict__ x, STORE* __restrict__ gx, int relu, int n,
                                                 int in, int out) {
    __shared__ __align__(16) REAL memory[MEMORY];
    int tiles = (in + TILE - 1) / TILE, row0 = blockIdx.x / tiles * TILE, column0 = blockIdx.x % tiles * TILE;
    REAL v = product<true, false, false>(memory, g, out, row0, n, weight, in, column0, in, out);
    int row = row0 + threadIdx.x / TILE, column = column0 + threadIdx.x % TILE;
    if (row >= n || column >= in) return;
    long long at = (long long)row * in + column;
    gx[at] = narrow(!relu || widen(x[at]) > 0 ? v : (REAL)0);
}

// Dropout in place, of values and of their gradient alike: each is 0 with probability p, and others are scaled. Both
// draw the same numbers, so no mask is kept: the counter is (number of the four, which dropout, number of the step).
extern "C" __global__ void dropout(STORE* __restrict__ values, const double* __restrict__ state, long long n, double p,
                                   REAL scale, int which) {
    unsigned long long draws = (unsigned long long)state[DRAWS];
    EACH(t, (n + 3) / 4) {
        Words words = philox((unsigned)t, 1u + which, (unsigned)draws, (unsigned)(draws >> 32), (unsigned)state[KEY0],
                             (unsigned)state[KEY1]);
        for (int i = 0; i < 4 && t * 4 + i < n; i++)
            values[t * 4 + i] = narrow(at_least(words.at[i], p) ? widen(values[t * 4 + i]) * scale : (REAL)0);
    }
}

// After a matrix product of the vendor's library: bias and ReLU, on STORE or, for the last layer, on REAL.
extern "C" __global__ void add_bias(STORE* __restrict__ y, const STORE* __restrict__ bias, int has_bias, int relu, int n,
                                    int out) {
    EACH(i, (long long)n * out) {
        REAL v = widen(y[i]);
        if (has_bias) v += widen(bias[i % out]);
        y[i] = narrow(relu && v <= 0 ? (REAL)0 : v);
    }
}

extern "C" __global__ void add_bias_to_logits(REAL* __restrict__ y, const STORE* __restrict__ bias, int has_bias,
                                              int relu, int n, int out) {
    EACH(i, (long long)n * out) {
        REAL v = y[i];
        if (has_bias) v += widen(bias[i % out]);
        y[i] = relu && v <= 0 ? (REAL)0 : v;
    }
}

// Add up the columns of g, 32 columns and `height` rows per block: partials[rows / height][column].
extern "C" __global__ void column_sums(const STORE* __restrict__ g, REAL* __restrict__ partials, int n, int out,
                                       int height) {
    __shared__ REAL part[THREADS];
    int wide = (out + 31) / 32, column = blockIdx.x % wide * 32 + threadIdx.x % 32, first = blockIdx.x / wide * height;
    int last = first + height < n ? first + height : n;
    REAL sum = 0;
    if (column < out) {
#pragma unroll 8
        for (int row = first + threadIdx.x / 32; row < last; row += THREADS / 32)
            sum += widen(g[(long long)row * out + column]);
    }
    part[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x >= 32 || column >= out) return;
    for (int i = 1; i < THREADS / 32; i++) sum += part[i * 32 + threadIdx.x];
    partials[(long long)(blockIdx.x / wide) * out + column] = sum;
}

// The gradient of a ReLU: g is 0 where y, which the ReLU made, is not above 0.
extern "C" __global__ void relu_gradient(STORE* __restrict__ g, const STORE* __restrict__ y, long long size) {
    EACH(i, size)
        if (!(widen(y[i]) > 0)) g[i] = narrow((REAL)0);
}

// The same at the end of the network, whose results are REAL.
extern "C" __global__ void relu_gradient_of_logits(STORE* __restrict__ g, const REAL* __restrict__ z, long long size) {
    EACH(i, size)
        if (!(z[i] > 0)) g[i] = narrow((REAL)0);
}


// Loss and update -----------------------------------------------------------------------------------------------------

// For each row of logits z (n, k): loss = ln sum exp z - z[label], and g = scale (softmax z - one-hot label) / counted,
// in one pass. Rows whose label is `ignore` do not count; a label that is no class makes the loss NaN. 32 threads share
// a row, a block takes 8 rows at a time, and losses[block] is the block's share of the mean.
extern "C" __global__ void softmax_loss(const REAL* __restrict__ z, const long long* __restrict__ targets,
                                        double* __restrict__ state, STORE* __restrict__ g, REAL* __restrict__ losses,
                                        int n, int k, long long ignore) {
    __shared__ REAL part[THREADS];
    __shared__ REAL shares[THREADS / 32];
    int t = threadIdx.x, lane = t % 32, first = t / 32 * 32, lanes = k < 32 ? k : 32, counted = 0;
    for (int i = t; i - t < n; i += THREADS) counted += __syncthreads_count(i < n && targets[i] != ignore);
    REAL factor = (REAL)(state[SCALE] / counted), share = 0;
    for (int base = blockIdx.x * (THREADS / 32); base < n; base += gridDim.x * (THREADS / 32)) {
        int row = base + t / 32;
        const REAL* values = z + (long long)(row < n ? row : 0) * k;
        REAL top = values[lane < lanes ? lane : 0];
        for (int a = lane; a < k; a += 32) top = values[a] > top ? values[a] : top;
        part[t] = top;
        __syncthreads();
        for (int a = 0; a < lanes; a++) top = part[first + a] > top ? part[first + a] : top;
        __syncthreads();
        REAL sum = 0;
        for (int a = lane; a < k; a += 32) sum += exp(values[a] - top);
        part[t] = sum;
        __syncthreads();
        sum = 0;
        for (int a = 0; a < lanes; a++) sum += part[first + a];
        __syncthreads();
        if (row >= n) continue;
        long long label = targets[row];
        bool counts = label != ignore;
        for (int a = lane; a < k; a += 32)
            g[(long long)row * k + a] = narrow(counts ? factor * (exp(values[a] - top) / sum - (REAL)(a == label)) : (REAL)0);
        if (lane == 0 && counts)
            share += label >= 0 && label < k ? log(sum) - (values[label] - top) : (REAL)NAN;
    }
    if (lane == 0) shares[t / 32] = share;
    __syncthreads();
    if (t) return;
    for (int i = 1; i < THREADS / 32; i++) share += shares[i];
    losses[blockIdx.x] = share / counted;
    if (blockIdx.x == 0) state[OVERFLOWED] = 0;
}

// The second stage of all sums over the batch, a block per entry of `pieces`: (to, length, from, parts, stride). Element
// e of a piece is the sum of partials[from + i * stride + e] over its parts, or, with none, what stands there already;
// it is divided by the loss scale. The first piece is the loss; who adds it up prepares the update too.
extern "C" __global__ void finish(const long long* __restrict__ pieces, const REAL* __restrict__ partials,
                                  REAL* __restrict__ gradient, REAL* __restrict__ loss, REAL* __restrict__ losses,
                                  double* __restrict__ state) {
    __shared__ REAL part[THREADS];
    const long long* piece = pieces + blockIdx.x * 5;
    long long to = piece[0], from = piece[2], parts = piece[3], stride = piece[4];
    int length = (int)piece[1], t = threadIdx.x, e = t % 32;
    REAL inverse = (REAL)(1 / state[SCALE]);
    bool finite = true;
    if (parts == 0) {
        for (int i = t; i < length; i += THREADS) {
            REAL v = gradient[to + i] *= inverse;
            finite = finite && v - v == 0;
        }
        if (!finite) state[OVERFLOWED] = 1;
        return;
    }
    REAL sum = 0;
    if (e < length) {
#pragma unroll 8
        for (long long i = t / 32; i < parts; i += THREADS / 32) sum += partials[from + i * stride + e];
    }
    part[t] = sum;
    __syncthreads();
    if (t >= 32 || e >= length) return;
    for (int i = 1; i < THREADS / 32; i++) sum += part[i * 32 + e];
    if (to >= 0) {
        REAL v = gradient[to + e] = sum * inverse;
        if (v - v != 0) state[OVERFLOWED] = 1;
        return;
    }
    *loss = losses[(long long)state[CURSOR]] = sum;
    state[CURSOR] += 1, state[DRAWS] += 1;
    double step = state[STEPS] + 1;
    state[RATE] = state[LR] / (1 - pow(state[BETA1], step));
    state[ROOT] = sqrt(1 - pow(state[BETA2], step));
}

// Adam over all parameters in one pass: Kingma & Ba, Algorithm 1; with DECOUPLED, AdamW. No step is taken on gradients
// that overflowed; then the scale of the loss is halved, and it doubles after INTERVAL steps without.
extern "C" __global__ void adam(REAL* __restrict__ p, const REAL* __restrict__ g, REAL* __restrict__ m,
                                REAL* __restrict__ v, double* __restrict__ state, long long n) {
    bool skip = state[OVERFLOWED] != 0 && state[SCALING] != 0;
    if (!skip) {
        bool decoupled = state[DECOUPLED] != 0;
        REAL rate = (REAL)state[RATE], root = (REAL)state[ROOT], beta1 = (REAL)state[BETA1], beta2 = (REAL)state[BETA2];
        REAL rest1 = (REAL)(1 - state[BETA1]), rest2 = (REAL)(1 - state[BETA2]), eps = (REAL)state[EPS];
        REAL coupled = (REAL)(decoupled ? 0 : state[DECAY]), keep = (REAL)(decoupled ? 1 - state[LR] * state[DECAY] : 1);
        EACH(i, n) {
            REAL before = p[i] * keep, grad = g[i] + coupled * p[i];
            REAL mi = m[i] = beta1 * m[i] + rest1 * grad;
            REAL vi = v[i] = beta2 * v[i] + rest2 * grad * grad;
            p[i] = before - rate * (mi / (sqrt(vi) / root + eps));
        }
    }
    // No other thread reads these places in this launch.
    if (blockIdx.x || threadIdx.x) return;
    if (!skip) state[STEPS] += 1;
    if (state[SCALING] == 0) return;
    if (skip) state[SCALE] *= 0.5, state[SKIPPED] += 1, state[GROWTH] = 0;
    else if ((state[GROWTH] += 1) >= state[INTERVAL]) state[SCALE] *= 2, state[GROWTH] = 0;
}
