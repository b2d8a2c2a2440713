// One convolution of `device_program.py` with its bias, ReLU and pool, and its gradients. The text is compiled for one
// layer: all sizes are constants, so that loops unroll, sums stay in registers and divisions become multiplications.
//
// x is (N, C, H, W), weight (O, C, KH, KW), y and its gradient (N, O, PH, PW): positions that a pool of POOLH x POOLW
// left over of OH x OW. `switches` says of each which element of its window was the largest, or DEAD if the ReLU passed
// nothing on: one byte instead of the map in front of the pool, which is never written.
//
// A block holds what it needs of one image in shared memory: all channels of a band of rows. A thread computes the
// windows of one pool for a few output channels: what it sees of a channel is read once into registers and serves
// all of them, and all threads of a warp read the same weight, which costs one read. Weights are padded to multiples of
// four, so that they are read four at a time. Loops that bring memory in are unrolled, so that four reads are under way.

#define KK (KH * KW)
#define KK4 ((KK + 3) / 4 * 4)
#define DEAD 255
#define REACH_H ((KH - 1) * DH)
#define REACH_W ((KW - 1) * DW)
#define EVEN(n) (((n) + 1) / 2 * 2)

// What PARTS x BANDS blocks of the forward kernel share: OUT_MAPS channels (OUT_EACH per thread) by OUT_ROWS rows.
#define OUT_BANDS ((PH + OUT_ROWS - 1) / OUT_ROWS)
#define OUT_PARTS ((O + OUT_MAPS - 1) / OUT_MAPS)
#define SEEN_PITCH EVEN((PW * POOLW - 1) * SW + REACH_W + 1)
#define SEEN_ROWS(rows) (((rows) * POOLH - 1) * SH + REACH_H + 1)

template <int ROWS>
__device__ void load_image(const STORE* __restrict__ x, REAL* image, int first) {
#pragma unroll 4
    for (int e = threadIdx.x; e < C * ROWS * SEEN_PITCH; e += blockDim.x) {
        int s = e % SEEN_PITCH - LEFT, r = first + e / SEEN_PITCH % ROWS - TOP, c = e / (SEEN_PITCH * ROWS);
        image[e] = r >= 0 && r < H && s >= 0 && s < W ? widen(x[(c * H + r) * W + s]) : (REAL)0;
    }
}

// Add to sums[map][i][j] the correlation of what is seen at (i STEPH, j STEPW) with the map's kernel.
template <int MAPS, int GRID_H, int GRID_W, int STEPH, int STEPW>
__device__ void correlate(const REAL* seen, int pitch, const REAL* kernels, int apart, REAL (*sums)[GRID_H * GRID_W]) {
    const int high = (GRID_H - 1) * STEPH + REACH_H + 1, wide = (GRID_W - 1) * STEPW + REACH_W + 1;
    const bool fits = high * wide <= 64;  // registers that a thread can spare
    REAL window[fits ? high : 1][fits ? wide : 1];
    if (fits) {
#pragma unroll
        for (int i = 0; i < high; i++)
#pragma unroll
            for (int j = 0; j < wide; j++) window[i % (fits ? high : 1)][j % (fits ? wide : 1)] = seen[i * pitch + j];
    }
#pragma unroll
    for (int map = 0; map < MAPS; map++)
#pragma unroll
        for (int p = 0; p < KH; p++)
#pragma unroll
            for (int q = 0; q < KW; q++) {
                REAL weight = kernels[map * apart + p * KW + q];
#pragma unroll
                for (int i = 0; i < GRID_H; i++)
#pragma unroll
                    for (int j = 0; j < GRID_W; j++) {
                        const int row = i * STEPH + p * DH, column = j * STEPW + q * DW;
                        REAL v = fits ? window[row % (fits ? high : 1)][column % (fits ? wide : 1)]
                                      : seen[row * pitch + column];
                        sums[map][i * GRID_W + j] += weight * v;
                    }
            }
}

extern "C" __global__ void convolution_forward(const STORE* __restrict__ x, const STORE* __restrict__ weight,
                                               const STORE* __restrict__ bias, STORE* __restrict__ y,
                                               unsigned char* __restrict__ switches) {
    const int rows = SEEN_ROWS(OUT_ROWS), positions = OUT_ROWS * PW, groups = (OUT_MAPS + OUT_EACH - 1) / OUT_EACH;
    __shared__ __align__(16) REAL image[C * rows * SEEN_PITCH];
    __shared__ __align__(16) REAL kernels[groups * OUT_EACH * C * KK4];
    int part = blockIdx.x % OUT_PARTS, band = blockIdx.x / OUT_PARTS % OUT_BANDS;
    long long n = blockIdx.x / (OUT_PARTS * OUT_BANDS);
#pragma unroll 4
    for (int e = threadIdx.x; e < groups * OUT_EACH * C * KK4; e += blockDim.x) {
        int k = e % KK4, c = e / KK4 % C, map = e / (KK4 * C), o = part * OUT_MAPS + map;
        kernels[e] = k < KK && map < OUT_MAPS && o < O ? widen(weight[(o * C + c) * KK + k]) : (REAL)0;
    }
    load_image<rows>(x + n * C * H * W, image, band * OUT_ROWS * POOLH * SH);
    __syncthreads();
    for (int item = threadIdx.x; item < positions * groups; item += blockDim.x) {
        int j = item % PW, i = item / PW % OUT_ROWS, group = item / positions, row = band * OUT_ROWS + i;
        if (row >= PH) continue;
        REAL sums[OUT_EACH][POOLH * POOLW] = {};
#pragma unroll 1
        for (int c = 0; c < C; c++)
            correlate<OUT_EACH, POOLH, POOLW, SH, SW>(
                image + (c * rows + i * POOLH * SH) * SEEN_PITCH + j * POOLW * SW, SEEN_PITCH,
                kernels + (group * OUT_EACH * C + c) * KK4, C * KK4, sums);
#pragma unroll
        for (int map = 0; map < OUT_EACH; map++) {
            int local = group * OUT_EACH + map, o = part * OUT_MAPS + local;
            if (local >= OUT_MAPS || o >= O) continue;
            REAL best = sums[map][0];
            int where = 0;
#pragma unroll
            for (int k = 1; k < POOLH * POOLW; k++)  // the first of equal ones; a NaN is larger than everything
                if (sums[map][k] > best || (sums[map][k] != sums[map][k] && best == best)) best = sums[map][k], where = k;
#if BIAS
            best += widen(bias[o]);
#endif
#if RELU
            if (!(best > 0)) where = DEAD;
            if (best <= 0) best = 0;
#endif
            long long at = ((n * O + o) * PH + row) * PW + j;
            y[at] = narrow(best);
            switches[at] = (unsigned char)where;
        }
    }
}

// gx[n, c, r, s] = sum over o, p, q of u[o, r + TOP - p DH, s + LEFT - q DW] weight[o, c, p, q], where u is g put back to
// where it came from, with zeros between: before the pool and, for a stride above 1, at every SH-th row and SW-th column.
// A thread computes 2 x 2 neighbours for IN_EACH channels, a block IN_MAPS channels of IN_ROWS rows, CHUNK maps of g at
// a time.
#define IN_BANDS ((H + IN_ROWS - 1) / IN_ROWS)
#define IN_PARTS ((C + IN_MAPS - 1) / IN_MAPS)
#define BACK_ROWS (IN_ROWS + REACH_H)
#define BACK_PITCH (EVEN(W) + EVEN(REACH_W))

extern "C" __global__ void convolution_input_gradient(const STORE* __restrict__ g, const unsigned char* __restrict__ switches,
                                                      const STORE* __restrict__ weight, STORE* __restrict__ gx) {
    const int groups = (IN_MAPS + IN_EACH - 1) / IN_EACH, across = EVEN(W) / 2, positions = IN_ROWS / 2 * across;
    const int padded = groups * IN_EACH;
    __shared__ __align__(16) REAL back[CHUNK * BACK_ROWS * BACK_PITCH];
    __shared__ __align__(16) REAL kernels[CHUNK * padded * KK4];
    int part = blockIdx.x % IN_PARTS, band = blockIdx.x / IN_PARTS % IN_BANDS;
    long long n = blockIdx.x / (IN_PARTS * IN_BANDS);
    int first = band * IN_ROWS + TOP - REACH_H;  // the row of u that stands first in `back`
    int i0 = first > 0 ? first / (SH * POOLH) : 0, i1 = (first + BACK_ROWS - 1) / (SH * POOLH);
    if (first + BACK_ROWS <= 0) i1 = -1;
    if (i1 >= PH) i1 = PH - 1;
    int cells = i1 < i0 ? 0 : (i1 - i0 + 1) * PW;
    REAL sums[ITEMS][IN_EACH][4] = {};
    for (int o0 = 0; o0 < O; o0 += CHUNK) {
        __syncthreads();
        for (int e = threadIdx.x; e < CHUNK * BACK_ROWS * BACK_PITCH; e += blockDim.x) back[e] = 0;
#pragma unroll 4
        for (int e = threadIdx.x; e < CHUNK * padded * KK4; e += blockDim.x) {
            int k = e % KK4, map = e / KK4 % padded, o = o0 + e / (KK4 * padded), c = part * IN_MAPS + map;
            bool inside = k < KK && map < IN_MAPS && c < C && o < O;
            kernels[e] = inside ? widen(weight[(o * C + c) * KK + KK - 1 - k]) : (REAL)0;  // turned by half a turn
        }
        __syncthreads();
#pragma unroll 4
        for (int e = threadIdx.x; e < CHUNK * cells; e += blockDim.x) {
            int j = e % cells % PW, i = i0 + e % cells / PW, o = e / cells;
            if (o0 + o >= O) continue;
            long long at = ((n * O + o0 + o) * PH + i) * PW + j;
            int where = switches[at];
            if (where == DEAD) continue;
            int row = (i * POOLH + where / POOLW) * SH - first;
            int column = (j * POOLW + where % POOLW) * SW - (LEFT - REACH_W);
            if (row >= 0 && row < BACK_ROWS && column >= 0 && column < BACK_PITCH)
                back[(o * BACK_ROWS + row) * BACK_PITCH + column] = widen(g[at]);
        }
        __syncthreads();
#pragma unroll
        for (int turn = 0; turn < ITEMS; turn++) {
            int item = turn * blockDim.x + threadIdx.x;
            if (item >= positions * groups) continue;
            int s = item % across * 2, r = item / across % (IN_ROWS / 2) * 2, group = item / positions;
#pragma unroll 1
            for (int o = 0; o < CHUNK; o++)
                correlate<IN_EACH, 2, 2, 1, 1>(back + (o * BACK_ROWS + r) * BACK_PITCH + s, BACK_PITCH,
                                               kernels + (o * padded + group * IN_EACH) * KK4, KK4, sums[turn]);
        }
    }
#pragma unroll
    for (int turn = 0; turn < ITEMS; turn++) {
        int item = turn * blockDim.x + threadIdx.x;
        if (item >= positions * groups) continue;
        int s = item % across * 2, r = band * IN_ROWS + item / across % (IN_ROWS / 2) * 2, group = item / positions;
#pragma unroll
        for (int map = 0; map < IN_EACH; map++) {
            int local = group * IN_EACH + map, c = part * IN_MAPS + local;
            if (local >= IN_MAPS || c >= C) continue;
#pragma unroll
            for (int k = 0; k < 4; k++)
                if (r + k / 2 < H && s + k % 2 < W && r + k / 2 < (band + 1) * IN_ROWS)
                    gx[((n * C + c) * H + r + k / 2) * W + s + k % 2] = narrow(sums[turn][map][k]);
        }
    }
}

// gw[o, c, p, q] = sum over n, i, j of u[n, o, i, j] x[n, c, i SH + p DH - TOP, j SW + q DW - LEFT], gb[o] = sum of u.
// Of every pool window one element of u is not 0, so only the positions behind the pool are gone through. A thread owns
// the kernel of one (o, c), or a row of it, and every SLICES-th position; a block goes through its images and bands
// one after the other, adds up its slices and leaves partials[block]: first all weights, then the biases.
#define SUM_BANDS ((PH + SUM_ROWS - 1) / SUM_ROWS)
#define OWN_ROWS (KK <= 32 ? KH : 1)
#define OWN (OWN_ROWS * KW)
#define OWNERS (O * C * (KH / OWN_ROWS))
#define SUM_OWNERS (OWNERS < SUM_THREADS ? OWNERS : SUM_THREADS)
#define SUM_PARTS ((OWNERS + SUM_OWNERS - 1) / SUM_OWNERS)
#define SLICES (SUM_THREADS / SUM_OWNERS)
#define AT_ONCE (96 / (int)sizeof(REAL))  // sums per thread that are added up at a time: 24 KiB
#define LARGER(a, b) ((a) > (b) ? (a) : (b))

extern "C" __global__ void convolution_weight_gradient(const STORE* __restrict__ x, const STORE* __restrict__ g,
                                                       const unsigned char* __restrict__ switches,
                                                       REAL* __restrict__ partials, int n) {
    const int rows = SEEN_ROWS(SUM_ROWS), positions = SUM_ROWS * PW, pitch = positions | 1;  // odd: other banks per map
    const int image_size = C * rows * SEEN_PITCH;
    __shared__ __align__(16) REAL memory[LARGER(image_size + O * pitch, AT_ONCE * SUM_THREADS)];
    __shared__ short places[O * pitch];
    REAL *image = memory, *values = memory + image_size;
    int t = threadIdx.x, part = blockIdx.x % SUM_PARTS, slice = t / SUM_OWNERS, owner = part * SUM_OWNERS + t % SUM_OWNERS;
    bool active = slice < SLICES && owner < OWNERS;
    int o = owner % O, c = owner / O % C, p0 = owner / (O * C) * OWN_ROWS;
    REAL sums[OWN + 1] = {};
    for (int unit = blockIdx.x / SUM_PARTS; unit < n * SUM_BANDS; unit += gridDim.x / SUM_PARTS) {
        int band = unit % SUM_BANDS;
        long long sample = unit / SUM_BANDS;
        __syncthreads();
        load_image<rows>(x + sample * C * H * W, image, band * SUM_ROWS * POOLH * SH);
#pragma unroll 4
        for (int e = t; e < O * positions; e += blockDim.x) {
            int j = e % PW, i = e / PW % SUM_ROWS, map = e / positions, row = band * SUM_ROWS + i;
            long long at = ((sample * O + map) * PH + row) * PW + j;
            int where = row < PH ? switches[at] : DEAD, place = map * pitch + i * PW + j;
            values[place] = where == DEAD ? (REAL)0 : widen(g[at]);
            where = where == DEAD ? 0 : where;
            places[place] = (short)((i * POOLH + where / POOLW) * SH * SEEN_PITCH + (j * POOLW + where % POOLW) * SW);
        }
        __syncthreads();
        if (!active) continue;
        for (int k = slice; k < positions; k += SLICES) {
            REAL v = values[o * pitch + k];
            const REAL* seen = image + (c * rows + p0 * DH) * SEEN_PITCH + places[o * pitch + k];
#pragma unroll
            for (int p = 0; p < OWN_ROWS; p++)
#pragma unroll
                for (int q = 0; q < KW; q++) sums[p * KW + q] += v * seen[p * DH * SEEN_PITCH + q * DW];
            sums[OWN] += v;
        }
    }
    REAL* mine = partials + (long long)(blockIdx.x / SUM_PARTS) * (O * C * KK + O);
#pragma unroll
    for (int k0 = 0; k0 < OWN + 1; k0 += AT_ONCE) {
        const int here = OWN + 1 - k0 < AT_ONCE ? OWN + 1 - k0 : AT_ONCE;
        __syncthreads();
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
            if (k0 + k < OWN + 1) memory[k * SUM_THREADS + t] = sums[(k0 + k) % (OWN + 1)];
        __syncthreads();
        for (int e = t; e < here * SUM_OWNERS; e += blockDim.x) {
            int k = k0 + e / SUM_OWNERS, who = part * SUM_OWNERS + e % SUM_OWNERS;
            if (who >= OWNERS) continue;
            REAL total = 0;
            for (int s = 0; s < SLICES; s++) total += memory[(k - k0) * SUM_THREADS + s * SUM_OWNERS + e % SUM_OWNERS];
            int map = who % O, channel = who / O % C, first = who / (O * C) * OWN_ROWS;
            if (k < OWN) mine[((map * C + channel) * KH + first + k / KW) * KW + k % KW] = total;
            else if (channel == 0 && first == 0) mine[O * C * KK + map] = total;
        }
    }
}
