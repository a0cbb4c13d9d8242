// Runs services/kvplanes/kernels/cuda/decode.cu, or with HANDOVER handover.cu, on a CPU: one fiber a thread, warps in lockstep only where CUDA says so.
//
// A fiber runs until it waits for others, so a missing barrier shows as stale data. Asynchronous copies happen as late
// as CUDA allows: when their group is waited for. Built by tests/kvplanes/emulated.py with the kernel's macros.

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define ON_CPU
#define __device__
#define __global__
#define __shared__
#define __forceinline__ inline
#define __align__(n)
#define __launch_bounds__(...)
#define __grid_constant__

struct uint2 { unsigned x, y; };
struct uint4 { unsigned x, y, z, w; };
struct int4 { int x, y, z, w; };
struct float2 { float x, y; };
struct Dim { int x; };
using std::max;
using std::min;

constexpr int THREADS = WARPS * 32;
alignas(128) char memory[256 * 1024];
static Dim threadIdx, blockIdx;

struct Barrier {
  int arrived = 0;
  unsigned generation = 0;
};
struct Copy {
  unsigned to;
  const void *from;
  int bytes;
  bool real;
};
struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  bool done;
  unsigned collectives;
  std::vector<std::vector<Copy>> groups;
};
static Fiber fibers[THREADS];
static ucontext_t scheduler;
static int current;
static Barrier block_barrier, warp_barriers[WARPS];
static unsigned boxes[WARPS][2][32][6];
static std::function<void()> body;

static void yield() {
  swapcontext(&fibers[current].context, &scheduler);
}
static void arrive(Barrier &barrier, int count) {
  if (++barrier.arrived == count) {
    barrier.arrived = 0;
    barrier.generation++;
    return;
  }
  unsigned seen = barrier.generation;
  while (barrier.generation == seen) yield();
}
static void __syncthreads() { arrive(block_barrier, THREADS); }
static void __syncwarp() { arrive(warp_barriers[current / 32], 32); }

// Show `values` to the warp; what all 32 lanes show comes back.
static unsigned (*show(std::initializer_list<unsigned> values))[6] {
  auto &box = boxes[current / 32][fibers[current].collectives++ & 1];
  std::copy(values.begin(), values.end(), box[current % 32]);
  __syncwarp();
  return box;
}
static unsigned bits_of(float x) { unsigned y; memcpy(&y, &x, 4); return y; }
static float __uint_as_float(unsigned x) { float y; memcpy(&y, &x, 4); return y; }
static unsigned __float_as_uint(float x) { return bits_of(x); }
static float __int_as_float(int x) { return __uint_as_float((unsigned)x); }
static unsigned lane_of(int lane) { return lane & 31; }
static int __shfl_sync(unsigned, int x, int lane) { return (int)show({(unsigned)x})[lane_of(lane)][0]; }
static float __shfl_sync(unsigned, float x, int lane) { return __uint_as_float(show({bits_of(x)})[lane_of(lane)][0]); }
static float __shfl_xor_sync(unsigned, float x, int span) {
  return __uint_as_float(show({bits_of(x)})[(current % 32) ^ span][0]);
}
static unsigned long long __shfl_xor_sync(unsigned, unsigned long long x, int span) {
  auto *there = show({(unsigned)x, (unsigned)(x >> 32)})[(current % 32) ^ span];
  return there[0] | (unsigned long long)there[1] << 32;
}
static bool __any_sync(unsigned, bool x) {
  auto *box = show({x});
  bool any = false;
  for (int lane = 0; lane < 32; lane++) any |= box[lane][0] != 0;
  return any;
}
static float half_bits(unsigned short x) { _Float16 y; memcpy(&y, &x, 2); return (float)y; }
static unsigned short bits_half(float x) { _Float16 y = (_Float16)x; unsigned short z; memcpy(&z, &y, 2); return z; }
static float half_low(unsigned x) { return half_bits(x & 0xffff); }
static float half_high(unsigned x) { return half_bits(x >> 16); }
static unsigned to_half2(float low, float high) { return bits_half(low) | (unsigned)bits_half(high) << 16; }
static unsigned short to_bf16(float x) {
  unsigned y = bits_of(x);
  return (unsigned short)((y + 0x7fff + ((y >> 16) & 1)) >> 16);
}
static unsigned halves_times(unsigned x, unsigned y) {
  return to_half2(half_low(x) * half_low(y), half_high(x) * half_high(y));
}
static unsigned pick_bytes(unsigned a, unsigned b, unsigned which) {
  unsigned long long both = a | (unsigned long long)b << 32;
  unsigned y = 0;
  for (int i = 0; i < 4; i++) y |= (unsigned)(both >> (8 * (which >> (4 * i) & 7)) & 0xff) << (8 * i);
  return y;
}
static unsigned pick_bits(unsigned a, unsigned b, unsigned mask) { return (a & mask) | (b & ~mask); }
static float exp2_fast(float x) { return exp2f(x); }
static float log2_fast(float x) { return log2f(x); }

static unsigned shared_address(const void *p) { return (unsigned)((const char *)p - memory); }
template <typename V>
static V shared_read(unsigned at) {
  if (at % sizeof(V) || at + sizeof(V) > sizeof memory) abort();
  V x;
  memcpy(&x, memory + at, sizeof x);
  return x;
}
static void shared_write(unsigned at, float x) { memcpy(memory + at, &x, 4); }
static void queue(Copy copy) { fibers[current].groups.back().push_back(copy); }
static void copy16(unsigned to, const void *from) { queue({to, from, 16, true}); }
static void copy16_or_zeros(unsigned to, const void *from, bool real) { queue({to, from, 16, real}); }
static void copy8_or_zeros(unsigned to, const void *from, bool real) { queue({to, from, 8, real}); }
static void copies_close() { fibers[current].groups.emplace_back(); }
template <int LEFT>
static void copies_wait() {
  auto &groups = fibers[current].groups;
  while ((int)groups.size() > LEFT + 1) {
    for (auto &copy : groups.front()) {
      if ((uintptr_t)copy.from % copy.bytes || copy.to % copy.bytes) abort();
      if (copy.real) memcpy(memory + copy.to, copy.from, copy.bytes);
      else memset(memory + copy.to, 0, copy.bytes);
    }
    groups.erase(groups.begin());
  }
}
static void multiply(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  auto *box = show({a[0], a[1], a[2], a[3], b0, b1});
  int r = current % 32 / 4, c = current % 4;
  for (int i = 0; i < 4; i++) {
    int row = r + i / 2 * 8, column = 2 * c + i % 2;
    for (int k = 0; k < 16; k++) {
      unsigned left = box[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2], right = box[column * 4 + k % 8 / 2][4 + k / 8];
      d[i] += half_bits(left >> (k % 2 * 16)) * half_bits(right >> (k % 2 * 16));
    }
  }
}
static unsigned transpose(unsigned x) {
  auto *box = show({x});
  int r = current % 32 / 4, c = current % 4;
  unsigned y = 0;
  for (int i = 0; i < 2; i++) y |= (box[(2 * c + i) * 4 + r / 2][0] >> (r % 2 * 16) & 0xffff) << (16 * i);
  return y;
}
template <typename V>
static V __ldcg(const V *p) { return *p; }
static void __threadfence() {}
static void wait_for_last_kernel() {}
static unsigned atomicInc(unsigned *p, unsigned most) {
  unsigned old = *p;
  *p = old >= most ? 0 : old + 1;
  return old;
}

static int atomicExch(int *p, int x) {
  int old = *p;
  *p = x;
  return old;
}

#ifdef HANDOVER
#include "handover.cu"
using Parameters = Handover;
static void start(const Parameters &p) { planes_pass_low(p); }
constexpr int SHARED_BYTES = 0;
#else
#include "decode.cu"
using Parameters = Arguments;
static void start(const Parameters &p) { planes_decode(p); }
#endif

static void enter() {
  body();
  fibers[current].done = true;
  yield();
}

static void run_block() {
  for (int i = 0; i < THREADS; i++) {
    Fiber &fiber = fibers[i];
    if (!fiber.stack) fiber.stack.reset(new char[128 * 1024]);
    fiber.done = false;
    fiber.collectives = 0;
    fiber.groups.assign(1, {});
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = 128 * 1024;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
  }
  for (bool alive = true; alive;) {
    alive = false;
    for (current = 0; current < THREADS; current++) {
      if (fibers[current].done) continue;
      threadIdx.x = current;
      swapcontext(&scheduler, &fibers[current].context);
      alive = true;
    }
  }
}

extern "C" void run(const Parameters *parameters, int programs) {
  body = [parameters] { start(*parameters); };
  for (blockIdx.x = 0; blockIdx.x < programs; blockIdx.x++) {
    memset(memory, 0xff, sizeof memory);  // NaN where nothing was written
    run_block();
  }
}

extern "C" int shared_bytes() { return SHARED_BYTES; }
