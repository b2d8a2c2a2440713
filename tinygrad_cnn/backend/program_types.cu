// What the kernels of `device_program.py` compute in and what they store; stands in front of both other texts.
//
// REAL (float or double) is what is computed in. STORAGE is 0 if activations and the copy of the weights are REAL too, 1
// if they are float16, 2 if they are bfloat16; then arrays of them are read and written as bits, so that no header is
// needed.

#ifndef NAN
#define NAN __int_as_float(0x7fffffff)
#endif

#define EACH(i, n) \
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < (n); i += (long long)gridDim.x * blockDim.x)

#if STORAGE == 0
typedef REAL STORE;
__device__ REAL widen(STORE v) { return v; }
__device__ STORE narrow(REAL v) { return v; }
#elif STORAGE == 1
typedef unsigned short STORE;
#ifdef __CUDACC__
__device__ REAL widen(STORE v) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v));
    return f;
}
__device__ STORE narrow(REAL v) {
    STORE h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"((float)v));
    return h;
}
#else
__device__ REAL widen(STORE v) { return half_bits_to_float(v); }
__device__ STORE narrow(REAL v) { return float_to_half_bits(v); }
#endif
#else
typedef unsigned short STORE;
__device__ REAL widen(STORE v) {
    return __uint_as_float((unsigned)v << 16);
}
__device__ STORE narrow(REAL v) {  // to the nearest, ties to even; a NaN stays one
    if (v != v) return 0x7fff;
    unsigned bits = __float_as_uint((float)v);
    return (STORE)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
#endif
