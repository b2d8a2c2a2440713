// Just enough of CUDA C to compile a kernel with g++ and run it: every thread of a block is a fiber, and a barrier hands
// over to the next fiber that has not reached it. Blocks run one after the other, threads in an order shuffled by a seed,
// so that a missing barrier shows. Kernels that share nothing between threads run as plain calls, which is much faster.
#pragma once
#ifndef __x86_64__
#include <ucontext.h>
#endif

#include <cmath>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__ static
#define __shared__ static
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
using std::exp;
using std::log;
using std::pow;
using std::sqrt;

static inline float __uint_as_float(unsigned bits) {
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}
static inline float __int_as_float(int bits) { return __uint_as_float((unsigned)bits); }
static inline unsigned __float_as_uint(float f) {
    unsigned bits;
    std::memcpy(&bits, &f, 4);
    return bits;
}
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((std::uint64_t)a * b >> 32); }

#ifdef __FLT16_MAX__
static inline float half_bits_to_float(unsigned short bits) {
    _Float16 h;
    std::memcpy(&h, &bits, 2);
    return (float)h;
}
static inline unsigned short float_to_half_bits(float f) {
    _Float16 h = (_Float16)f;
    unsigned short bits;
    std::memcpy(&bits, &h, 2);
    return bits;
}
#endif

struct Index3 { unsigned x = 0, y = 0, z = 0; };
static Index3 threadIdx, blockIdx, blockDim, gridDim;

namespace on_cpu {
// Marsaglia's xorshift; the standard library's generators would take most of the time to compile.
struct Random {
    std::uint32_t state;
    explicit Random(unsigned seed) : state(seed * 2654435761u + 88675123u) {}
    std::uint32_t next() {
        state ^= state << 13;
        state ^= state >> 17;
        return state ^= state << 5;
    }
    void shuffle(std::vector<unsigned>& order) {
        for (std::size_t i = order.size(); i > 1; i--) std::swap(order[i - 1], order[next() % i]);
    }
};

// Switching to another stack. The C library's way asks the kernel about signals each time, which takes most of the time of
// a test; on x86-64 saving what a call must preserve is enough.
#ifdef __x86_64__
typedef void* Context;
extern "C" void on_cpu_switch(Context* from, Context to);
asm(R"(
.text
.hidden on_cpu_switch
.globl on_cpu_switch
on_cpu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
static void prepare(Context& context, std::vector<char>& stack, void (*function)()) {
    std::uintptr_t top = (std::uintptr_t)(stack.data() + stack.size()) / 16 * 16;
    void** words = (void**)top;
    words[-2] = (void*)function;  // where the first switch returns to, with the stack as after a call
    for (int i = 3; i <= 8; i++) words[-i] = nullptr;
    context = words - 8;
}
static void change(Context& from, Context& to) { on_cpu_switch(&from, to); }
#else
typedef ucontext_t Context;
static void prepare(Context& context, std::vector<char>& stack, void (*function)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack.data();
    context.uc_stack.ss_size = stack.size();
    makecontext(&context, function, 0);
}
static void change(Context& from, Context& to) { swapcontext(&from, &to); }
#endif

enum State { ready, waiting, finished };
struct Fiber {
    Context context;
    State state;
    std::vector<char> stack = std::vector<char>(1 << 16);
};
static std::vector<Fiber> fibers;
static Context scheduler;
static unsigned current;
static void (*body)(void*);
static void* arguments;

static void enter() {
    body(arguments);
    fibers[current].state = finished;
    change(fibers[current].context, scheduler);
}

static void barrier() {
    unsigned me = current;
    fibers[me].state = waiting;
    change(fibers[me].context, scheduler);
}

static void run_block_without_fibers(Random& random) {
    std::vector<unsigned> order(blockDim.x);
    for (unsigned t = 0; t < blockDim.x; t++) order[t] = t;
    random.shuffle(order);
    for (unsigned t : order) {
        threadIdx.x = t;
        body(arguments);
    }
}

// Run one block; return whether some threads left while others waited at a barrier.
static bool run_block(Random& random) {
    unsigned n = blockDim.x;
    if (fibers.size() < n) fibers.resize(n);
    std::vector<unsigned> order(n);
    for (unsigned t = 0; t < n; t++) {
        order[t] = t;
        fibers[t].state = ready;
        prepare(fibers[t].context, fibers[t].stack, enter);
    }
    bool diverged = false;
    for (;;) {
        random.shuffle(order);
        for (unsigned t : order)
            if (fibers[t].state == ready) {
                current = t;
                threadIdx.x = t;
                change(scheduler, fibers[t].context);
            }
        unsigned at_barrier = 0, done = 0;
        for (unsigned t = 0; t < n; t++) at_barrier += fibers[t].state == waiting, done += fibers[t].state == finished;
        if (!at_barrier) return diverged;
        diverged |= done != 0;
        for (unsigned t = 0; t < n; t++)
            if (fibers[t].state == waiting) fibers[t].state = ready;
    }
}

template <class... A, std::size_t... I>
void call(void (*kernel)(A...), void** values, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_const_t<A>*>(values[I])...);
}

template <class... A>
int launch(void (*kernel)(A...), unsigned blocks, unsigned threads, void** values, unsigned seed, bool shares) {
    struct Call { void (*kernel)(A...); void** values; } what{kernel, values};
    arguments = &what;
    body = [](void* p) {
        auto* c = static_cast<Call*>(p);
        call(c->kernel, c->values, std::index_sequence_for<A...>{});
    };
    gridDim.x = blocks;
    blockDim.x = threads;
    Random random(seed);
    std::vector<unsigned> order(blocks);
    for (unsigned b = 0; b < blocks; b++) order[b] = b;
    random.shuffle(order);
    int diverged = 0;
    for (unsigned b : order) {
        blockIdx.x = b;
        if (shares) diverged += run_block(random);
        else run_block_without_fibers(random);
    }
    return diverged;
}
}  // namespace on_cpu

static inline void __syncthreads() { on_cpu::barrier(); }

// Three barriers: nobody reads before all have voted, and nobody votes again before all have read and it is 0 again.
static inline int __syncthreads_count(int vote) {
    static int votes = 0;
    votes += vote != 0;
    on_cpu::barrier();
    int all = votes;
    on_cpu::barrier();
    votes = 0;
    on_cpu::barrier();
    return all;
}
