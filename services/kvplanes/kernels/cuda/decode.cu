// One decode step of one layer over KV planes, in one launch: rotate the queries, quantize and store the new token's
// key and value, attend over the cached codes, and merge what other programs of the request found.
//
// The source needs no header, so NVRTC compiles it at start. Macros choose the variant:
//   DIM 64, 128 or 256 channels a head; GROUP query heads a KV head (at most 8); WARPS a program; STAGES of each warp's
//   ring; PLACES programs a multiprocessor; MODEL_BF16 1 for bf16, 0 for fp16; APART 1 where shared memory holds the rings
//   and the warps' sums side by side, so that an item is on its way while the last one is merged, else 0.
//
// A program works for one KV head on a few items: an item is a chunk of one request's tokens, cut by `plan_kernel` so
// that every program reads as many bytes as the others. Each warp reads *units* of its own through a ring in shared memory (`cp.async`) and keeps a running softmax of its own. So the loop
// holds no barrier across warps. A unit is 32 rows of DIM bytes, each one slot's nibbles of K and V:
//   - high only: the high planes of 32 tokens;
//   - both planes: the high planes of 16 tokens, then their low planes.
// One product multiplies codes by queries transposed, 16 tokens by 8 heads, since a KV head has at most 8 query heads:
//   S^T (16 tokens, 8 heads)    += K (16 tokens, 16 channels)    Q^T (16 channels, 8 heads)
//   O^T (16 channels, 8 heads)  += V^T (16 channels, 16 tokens)  P^T (16 tokens, 8 heads)
// Lane 4 r + c holds row r and columns 2 c and 2 c + 1 of a fragment. A word of two 16-bit units gives a pair of
// neighbouring channels of each quarter of a head; which channels a product calls 2 c and 2 c + 1 is free, as long as
// queries and codes agree. A nibble's bits are the fp16 number nibble x 2^-24 (services/kvplanes/code.py).

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

constexpr u32 FULL = 0xffffffffu;
constexpr int QUARTER = DIM / 4;
constexpr int ROW = DIM;                       // bytes of one slot and head: K, then V
constexpr int PIECES = ROW / 16;               // 16-byte pieces of a row
constexpr int RING_BYTES = 32 * ROW + 32 * 8;  // of one stage: 32 rows, 32 scales
constexpr int SCALES_AT = 32 * ROW;
constexpr int K_WORDS = DIM / 32;  // 32-bit words of a key row that one lane holds
constexpr int V_WORDS = DIM / 64;
constexpr int CHANNELS = DIM / 32;  // of a row of DIM channels that one lane holds outside the products
constexpr int Q_PITCH = DIM + 8;    // fp16 numbers
constexpr int O_PITCH = DIM + 4;    // floats
constexpr int MERGE_BYTES = WARPS * 8 * O_PITCH * 4;
constexpr int RINGS_BYTES = WARPS * STAGES * RING_BYTES;
constexpr int MERGE_AT = APART ? RINGS_BYTES : 0;
constexpr int WORK_BYTES = APART ? RINGS_BYTES + MERGE_BYTES : RINGS_BYTES > MERGE_BYTES ? RINGS_BYTES : MERGE_BYTES;
constexpr int NEW_AT = WORK_BYTES;  // a unit of both planes for the new token alone
constexpr int Q_AT = NEW_AT + RING_BYTES;
constexpr int SUMS_AT = Q_AT + 8 * Q_PITCH * 2;
constexpr int FLAG_AT = SUMS_AT + WARPS * 3 * 8 * 4;
constexpr int SHARED_BYTES = FLAG_AT + 16;

constexpr float NIBBLE = 16777216.0f;  // 2^24: what a nibble's fp16 number lacks
constexpr float LIFT = 6.0f;           // weights count 2^6-fold, which keeps small ones out of fp16's subnormals
constexpr float SLACK = 2.0f;          // a score may exceed the running maximum by so much (base 2) before it moves
constexpr float SHIFT_HIGH = -7.5f;    // a high nibble alone reads as the middle of its 16 codes
constexpr float SHIFT_BOTH = -127.5f / 16.0f;

// Pointers and strides of one launch. Strides of codes and scales count bytes, the others elements of the model's dtype.
struct Arguments {
  const unsigned short *query, *key, *value;  // (batch, heads, DIM), the model's dtype, not rotated
  unsigned short *out;                        // (batch, HEADS * GROUP * DIM)
  const i64 *loc;                             // (batch) the new tokens' slots
  unsigned char *codes;                       // (HEADS, slots, 2, DIM/2)
  unsigned char *scales;                      // (HEADS, slots, 2, 2) fp16
  const int *low_of;                          // (slots)
  const int *table;                           // (rows, context) slots of a request's tokens
  const int *items, *bounds;                  // the plan: see plan_kernel
  float *part, *part_lse;                     // (items, HEADS * GROUP, DIM) and (items, HEADS * GROUP), base 2
  u32 *done;                                  // (batch, HEADS) zeros; zeros again at the end
  const float *centres;                       // (2, HEADS, DIM)
  i64 query_stride, key_stride, value_stride, out_stride, row_stride, code_stride, scale_stride;
  float score_scale;  // times log2(e)
  int heads, sinks, recent, save;
};

// ---- what PTX names --------------------------------------------------------------------------------------------

#ifndef ON_CPU
__device__ __forceinline__ void copy16(u32 to, const void *from) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from));
}
__device__ __forceinline__ void copy16_or_zeros(u32 to, const void *from, bool real) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(real ? 16 : 0));
}
__device__ __forceinline__ void copy8_or_zeros(u32 to, const void *from, bool real) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(from), "r"(real ? 8 : 0));
}
__device__ __forceinline__ void copies_close() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT>
__device__ __forceinline__ void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}
__device__ __forceinline__ void multiply(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// Where this kernel was launched before the last one had ended. Elsewhere it does nothing.
__device__ __forceinline__ void wait_for_last_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ u32 transpose(u32 x) {
  u32 y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}
__device__ __forceinline__ u32 shared_address(const void *p) { return (u32)__cvta_generic_to_shared(p); }
template <typename V>
__device__ __forceinline__ V shared_read(u32 at);
template <>
__device__ __forceinline__ u32 shared_read<u32>(u32 at) {
  u32 x;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(x) : "r"(at));
  return x;
}
template <>
__device__ __forceinline__ uint2 shared_read<uint2>(u32 at) {
  uint2 x;
  asm volatile("ld.shared.v2.b32 {%0,%1}, [%2];" : "=r"(x.x), "=r"(x.y) : "r"(at));
  return x;
}
template <>
__device__ __forceinline__ uint4 shared_read<uint4>(u32 at) {
  uint4 x;
  asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3}, [%4];" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "r"(at));
  return x;
}
__device__ __forceinline__ void shared_write(u32 at, float x) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(at), "f"(x) : "memory");
}
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float log2_fast(float x) {
  float y;
  asm("lg2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// Two floats to fp16, `low` in the lower half.
__device__ __forceinline__ u32 to_half2(float low, float high) {
  u32 y;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}
__device__ __forceinline__ float half_low(u32 x) {
  float y;
  asm("{.reg .f16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, l;}" : "=f"(y) : "r"(x));
  return y;
}
__device__ __forceinline__ float half_high(u32 x) {
  float y;
  asm("{.reg .f16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, h;}" : "=f"(y) : "r"(x));
  return y;
}
__device__ __forceinline__ unsigned short to_bf16(float x) {
  unsigned short y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ u32 halves_times(u32 x, u32 y) {
  u32 z;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(z) : "r"(x), "r"(y));
  return z;
}
__device__ __forceinline__ u32 pick_bytes(u32 a, u32 b, u32 which) { return __byte_perm(a, b, which); }
// Bits of `a` where `mask` is set, else of `b`.
__device__ __forceinline__ u32 pick_bits(u32 a, u32 b, u32 mask) {
  u32 y;
  asm("lop3.b32 %0, %1, %2, %3, 0xD8;" : "=r"(y) : "r"(b), "r"(a), "r"(mask));
  return y;
}
#endif

// ---- numbers ----------------------------------------------------------------------------------------------------

__device__ __forceinline__ float from_model(u32 bits) {
#if MODEL_BF16
  return __uint_as_float(bits << 16);
#else
  return half_low(bits);
#endif
}

__device__ __forceinline__ u32 to_model(float x) {
#if MODEL_BF16
  return to_bf16(x);
#else
  return to_half2(x, 0.0f) & 0xffffu;
#endif
}

// CHANNELS channels of a row of DIM numbers in the model's dtype.
__device__ __forceinline__ void read_row(const unsigned short *row, int lane, float (&x)[CHANNELS]) {
#pragma unroll
  for (int i = 0; i < CHANNELS; i += 2) {
    u32 pair = *reinterpret_cast<const u32 *>(row + lane * CHANNELS + i);
    x[i] = from_model(pair & 0xffffu);
    x[i + 1] = from_model(pair >> 16);
  }
}

// Rotate a row, CHANNELS neighbours a lane, by the orthonormal Hadamard matrix.
__device__ __forceinline__ void rotate(float (&x)[CHANNELS], int lane) {
#pragma unroll
  for (int span = 1; span < CHANNELS; span *= 2) {
#pragma unroll
    for (int i = 0; i < CHANNELS; i++) {
      if (i & span) continue;
      float a = x[i], b = x[i + span];
      x[i] = a + b;
      x[i + span] = a - b;
    }
  }
#pragma unroll
  for (int span = 1; span < 32; span *= 2) {
#pragma unroll
    for (int i = 0; i < CHANNELS; i++) {
      float other = __shfl_xor_sync(FULL, x[i], span);
      x[i] = lane & span ? other - x[i] : x[i] + other;
    }
  }
  constexpr float scale = DIM == 64 ? 0.125f : DIM == 128 ? 0.08838834764831845f : 0.0625f;
#pragma unroll
  for (int i = 0; i < CHANNELS; i++) x[i] *= scale;
}

// The four quarters of two units, as fp16 times 2^-24, 2^-20, 2^-24 and 2^-20.
__device__ __forceinline__ void unpack(u32 x, u32 (&quarter)[4]) {
  quarter[0] = x & 0x000F000Fu;
  quarter[1] = x & 0x00F000F0u;
  x >>= 8;
  quarter[2] = x & 0x000F000Fu;
  quarter[3] = x & 0x00F000F0u;
}

// Both planes' nibbles to 8-bit codes, as fp16 times 2^-24.
__device__ __forceinline__ void join(u32 high, u32 low, u32 (&quarter)[4]) {
  u32 even = pick_bits(low, high << 4, 0x0F0F0F0Fu);
  u32 odd = pick_bits(low >> 4, high, 0x0F0F0F0Fu);
  quarter[0] = even & 0x00FF00FFu;
  quarter[1] = odd & 0x00FF00FFu;
  quarter[2] = pick_bytes(even, 0, 0x4341);
  quarter[3] = pick_bytes(odd, 0, 0x4341);
}

// ---- the new token ------------------------------------------------------------------------------------------------

// Centre, rotate, quantize and store one key (`kind` 0) or value (1); services/kvplanes/code.py says how. What is stored
// goes to shared memory, too, as a unit of one token, so that nobody waits for it to come back.
__device__ __forceinline__ void store_row(const Arguments &p, char *unit, int request, int head, int kind, int lane) {
  const unsigned short *source = kind ? p.value + request * p.value_stride : p.key + request * p.key_stride;
  const float *centre = p.centres + (kind * p.heads + head) * DIM + lane * CHANNELS;
  float x[CHANNELS], high, low;
  read_row(source + head * DIM, lane, x);
#pragma unroll
  for (int i = 0; i < CHANNELS; i++) x[i] -= centre[i];
  rotate(x, lane);
  high = low = x[0];
#pragma unroll
  for (int i = 1; i < CHANNELS; i++) high = fmaxf(high, x[i]), low = fminf(low, x[i]);
#pragma unroll
  for (int span = 1; span < 32; span *= 2) {
    high = fmaxf(high, __shfl_xor_sync(FULL, high, span));
    low = fminf(low, __shfl_xor_sync(FULL, low, span));
  }
  float range = fmaxf((high - low) * (16.0f / 255.0f * (1.0f + 1.0f / 1024.0f)), 1.0f / 16384.0f);
  u32 pair = to_half2(range, (high + low) * 0.5f);  // step, middle
  float inverse = 16.0f / half_low(pair), middle = half_high(pair);
  // Unit u holds channels u, u + D/4, u + D/2 and u + 3D/4: this lane has one nibble of CHANNELS units.
  int place = 4 * (lane / 8);
  u64 packed[2][CHANNELS > 4 ? 2 : 1] = {};
#pragma unroll
  for (int i = 0; i < CHANNELS; i++) {
    int code = min(max((int)((x[i] - middle) * inverse + 128.0f), 0), 255);
    packed[0][i / 4] |= (u64)(code >> 4) << (16 * (i % 4) + place);
    packed[1][i / 4] |= (u64)(code & 15) << (16 * (i % 4) + place);
  }
  i64 slot = p.loc[request];
  int low_slot = p.low_of[slot];
  int at = kind * (DIM / 2) + (lane % 8) * (CHANNELS * 2);
#pragma unroll
  for (int plane = 0; plane < 2; plane++) {
    i64 target = plane ? low_slot : slot;
    unsigned char *row = p.codes + head * p.code_stride + max(target, (i64)0) * ROW + at;
    char *copy = unit + plane * 16 * ROW + at;
#pragma unroll
    for (int i = 0; i < CHANNELS; i += 4) {
      u64 units = packed[plane][i / 4];
      units |= __shfl_xor_sync(FULL, units, 8);
      units |= __shfl_xor_sync(FULL, units, 16);
      if (lane >= 8) continue;
      if (target < 0) units = 0;
      if (CHANNELS == 2) {
        *reinterpret_cast<u32 *>(copy) = (u32)units;
        if (target >= 0) *reinterpret_cast<u32 *>(row) = (u32)units;
      } else {
        *reinterpret_cast<u64 *>(copy + i * 2) = units;
        if (target >= 0) *reinterpret_cast<u64 *>(row + i * 2) = units;
      }
    }
  }
  u32 *scales = reinterpret_cast<u32 *>(unit + SCALES_AT);
  if (lane > 0) scales[2 * lane + kind] = 0;  // rows that hold no token must be numbers
  __syncwarp();
  if (lane > 0) return;
  *reinterpret_cast<u32 *>(p.scales + head * p.scale_stride + slot * 8 + kind * 4) = scales[kind] = pair;
  if (kind == 0) scales[2 * 16] = __float_as_uint(low_slot >= 0 ? SHIFT_BOTH : SHIFT_HIGH);
}

// ---- which tokens -------------------------------------------------------------------------------------------------

// What plan_kernel writes of an item, and the chunk's units: `heads` of both planes, `middles` of the high plane alone,
// then of both planes again.
struct Chunk {
  int request, start, end, length, row, fine, first, count;  // the plan's; of the request's items: the first, how many
  int head_end, tail_start, heads, middles, units;
  bool owner;  // the chunk ends with the new token, which is not in its units
  const int *slots;  // of the request's tokens
};

struct Unit {
  int first, limit;  // its tokens, as far as they are below limit
  bool both;
};

__device__ __forceinline__ Chunk read_item(const Arguments &p, int item) {
  Chunk chunk;
  const int4 *record = reinterpret_cast<const int4 *>(p.items) + 2 * item;
  int4 near = record[0], far = record[1];
  chunk.request = near.x, chunk.start = near.y, chunk.end = near.z, chunk.length = near.w;
  chunk.row = far.x, chunk.fine = far.y, chunk.first = far.z, chunk.count = far.w;
  chunk.slots = p.table + chunk.row * p.row_stride;
  chunk.owner = p.save && chunk.end == chunk.length;
  int start = chunk.start, end = chunk.end -= chunk.owner;
  chunk.head_end = min(max((p.sinks + 15) / 16 * 16, start), end);
  chunk.tail_start = p.recent > 0 ? max(chunk.length - p.recent, 0) / 16 * 16 : end;
  if (chunk.fine) chunk.head_end = end;
  chunk.tail_start = min(max(chunk.tail_start, chunk.head_end), end);
  chunk.heads = (chunk.head_end - start + 15) / 16;
  chunk.middles = (chunk.tail_start - chunk.head_end + 31) / 32;
  chunk.units = chunk.heads + chunk.middles + (end - chunk.tail_start + 15) / 16;
  return chunk;
}

__device__ __forceinline__ Unit unit_at(const Chunk &chunk, int index) {
  Unit unit;
  int middle = index - chunk.heads, tail = middle - chunk.middles;
  unit.both = middle < 0 || tail >= 0;
  unit.first = middle < 0 ? chunk.start + index * 16 : tail < 0 ? chunk.head_end + middle * 32 : chunk.tail_start + tail * 16;
  unit.limit = middle < 0 ? chunk.head_end : tail < 0 ? chunk.tail_start : chunk.end;
  return unit;
}

// The slot of this lane's token of unit `index`; -1 past the end.
__device__ __forceinline__ int slot_of(const Chunk &chunk, int index, int lane) {
  if (index >= chunk.units) return -1;
  Unit unit = unit_at(chunk, index);
  int token = unit.first + (unit.both ? lane & 15 : lane);
  return token < unit.limit ? chunk.slots[token] : -1;
}

// The slot that this lane's row of unit `index` lies in: its token's, or its token's low plane's.
__device__ __forceinline__ int row_of(const Arguments &p, const Chunk &chunk, int index, int slot, int lane) {
  if (lane < 16 || slot < 0 || index >= chunk.units || !unit_at(chunk, index).both) return slot;
  return p.low_of[slot];
}

// ---- the ring -----------------------------------------------------------------------------------------------------

// Pieces of a row trade places so that neither keys nor values, as the products read them, meet in a bank.
__device__ __forceinline__ int swizzle(int row) {
  return DIM == 64 ? row & 2 : DIM == 128 ? (row & 6) ^ ((row & 1) << 2) : row & 7;
}

// Where this lane writes and reads in a stage, in bytes. The compiler would work these out anew in every turn.
struct Places {
  u32 copy[2], key, value[2], scale;
};

__device__ __forceinline__ u32 keep(u32 x) {
  asm volatile("" : "+r"(x));
  return x;
}

__device__ __forceinline__ Places places_of(int lane) {
  Places at;
  int line = lane / PIECES, piece = lane % PIECES, r = lane / 4, c = lane % 4;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    int next = line + i * (32 / PIECES), token = 2 * c + i;
    at.copy[i] = keep(line * ROW + (piece ^ swizzle(next)) * 16);
    at.value[i] = keep(token * ROW + ((DIM / 2 + r * (V_WORDS * 4)) ^ (swizzle(token) * 16)));
  }
  at.key = keep(r * ROW + ((c * (K_WORDS * 4)) ^ (swizzle(r) * 16)));
  at.scale = keep(SCALES_AT + r * 8);
  return at;
}

// This lane's part of one KV head's planes.
struct Source {
  const unsigned char *codes, *scales;
};

// Start the copies of one unit; `row` is the slot of this lane's row, -1 for none. Without BOTH a missing row may hold
// any codes, since its scales are zeros; a missing low plane must read as zeros.
template <bool BOTH>
__device__ __forceinline__ void fetch(u32 stage, const Source &source, const Places &at, int row, int lane) {
  int held = BOTH ? row : max(row, 0);
  constexpr int LINES = 32 / PIECES;
#pragma unroll
  for (int i = 0; i < PIECES; i++) {
    int slot = __shfl_sync(FULL, held, i * LINES + lane / PIECES);
    // Lines 8 apart are swizzled alike; with LINES of 4, every other one.
    u32 to = stage + at.copy[LINES == 4 ? i % 2 : 0] + i * LINES * ROW;
    if (LINES == 2) to = stage + (at.copy[0] ^ (swizzle(i * LINES) * 16)) + i * LINES * ROW;
    if (BOTH)
      copy16_or_zeros(to, source.codes + (i64)max(slot, 0) * ROW, slot >= 0);
    else
      copy16(to, source.codes + (i64)slot * ROW);
  }
  u32 to = stage + SCALES_AT + lane * 8;
  if (BOTH && lane >= 16)
    shared_write(to, row >= 0 ? SHIFT_BOTH : SHIFT_HIGH);
  else
    copy8_or_zeros(to, source.scales + (i64)max(row, 0) * 8, row >= 0);
}

__device__ __forceinline__ void read_key(u32 at, u32 (&words)[K_WORDS]) {
  if (DIM == 64) {
    uint2 x = shared_read<uint2>(at);
    words[0] = x.x, words[1] = x.y;
  } else {
#pragma unroll
    for (int i = 0; i < K_WORDS; i += 4) {
      uint4 x = shared_read<uint4>(at ^ (i * 4));
      words[i] = x.x, words[i + 1] = x.y, words[i + 2] = x.z, words[i + 3] = x.w;
    }
  }
}

__device__ __forceinline__ void read_value(u32 at, u32 (&words)[V_WORDS]) {
  if (DIM == 64) {
    words[0] = shared_read<u32>(at);
  } else if (DIM == 128) {
    uint2 x = shared_read<uint2>(at);
    words[0] = x.x, words[V_WORDS - 1] = x.y;
  } else {
    uint4 x = shared_read<uint4>(at);
    words[0] = x.x, words[1 % V_WORDS] = x.y, words[2 % V_WORDS] = x.z, words[3 % V_WORDS] = x.w;
  }
}

// ---- attention ----------------------------------------------------------------------------------------------------

// A warp's running softmax for heads 2 c and 2 c + 1. `floor` is the maximum less LIFT.
struct State {
  float floor[2], mass[2], constant[2];
  float out[V_WORDS][4][4];  // word, quarter, fragment
};

struct Query {
  u32 part[K_WORDS / 2][4][2];  // pair of words, quarter, fragment
  float sum[2];
};

template <bool BOTH>
__device__ __forceinline__ void codes_of(u32 high, u32 low, u32 (&quarter)[4]) {
  if (BOTH)
    join(high, low, quarter);
  else
    unpack(high, quarter);
}

// Products of 16 tokens' key codes with the queries, (tokens r and r + 8) by (heads 2 c and 2 c + 1).
template <bool BOTH>
__device__ __forceinline__ void scores(u32 stage, int line, const Places &at, const Query &query, float (&score)[4]) {
  float even[4] = {}, odd[4] = {};
  u32 high[2][K_WORDS], low[2][K_WORDS] = {};
#pragma unroll
  for (int i = 0; i < 2; i++) {
    read_key(stage + at.key + (line + i * 8) * ROW, high[i]);
    if (BOTH) read_key(stage + at.key + (16 + i * 8) * ROW, low[i]);
  }
#pragma unroll
  for (int pair = 0; pair < K_WORDS / 2; pair++) {
    u32 part[4][4];
#pragma unroll
    for (int i = 0; i < 4; i++) codes_of<BOTH>(high[i % 2][2 * pair + i / 2], low[i % 2][2 * pair + i / 2], part[i]);
#pragma unroll
    for (int quarter = 0; quarter < 4; quarter++) {
      u32 a[4] = {part[0][quarter], part[1][quarter], part[2][quarter], part[3][quarter]};
      multiply(quarter % 2 ? odd : even, a, query.part[pair][quarter][0], query.part[pair][quarter][1]);
    }
  }
  constexpr float part = BOTH ? 1.0f : 0.0625f;  // a nibble four bits further up counts 16-fold
#pragma unroll
  for (int i = 0; i < 4; i++) score[i] = fmaf(odd[i], part, even[i]);
}

// Raise the maxima to those of `score`, and shrink what was summed.
__device__ __forceinline__ void raise(State &state, const float (&score)[4]) {
#pragma unroll
  for (int head = 0; head < 2; head++) {
    float top = fmaxf(score[head], score[head + 2]);
#pragma unroll
    for (int span = 4; span < 32; span *= 2) top = fmaxf(top, __shfl_xor_sync(FULL, top, span));
    float floor = fmaxf(state.floor[head], top - LIFT), shrink = exp2_fast(state.floor[head] - floor);
    state.floor[head] = floor;
    state.mass[head] *= shrink;
    state.constant[head] *= shrink;
#pragma unroll
    for (int word = 0; word < V_WORDS; word++)
#pragma unroll
      for (int quarter = 0; quarter < 4; quarter++) {
        state.out[word][quarter][head] *= shrink;
        state.out[word][quarter][head + 2] *= shrink;
      }
  }
}

// Add the products of 16 tokens' value codes with `even` and `odd`: their weights for quarters 0, 2 and 1, 3.
template <bool BOTH>
__device__ __forceinline__ void add_values(u32 stage, int line, const Places &at, const u32 (&even)[2],
                                           const u32 (&odd)[2], State &state) {
  u32 high[4][V_WORDS], low[4][V_WORDS] = {};
#pragma unroll
  for (int i = 0; i < 4; i++) {  // tokens 2 c, 2 c + 1, 2 c + 8, 2 c + 9
    read_value(stage + at.value[i % 2] + (line + i / 2 * 8) * ROW, high[i]);
    if (BOTH) read_value(stage + at.value[i % 2] + (16 + i / 2 * 8) * ROW, low[i]);
  }
#pragma unroll
  for (int word = 0; word < V_WORDS; word++) {
    u32 part[4][4];
#pragma unroll
    for (int i = 0; i < 4; i++) {  // row r and r + 8 (a word's first and second unit) of tokens 2 c.., then of 2 c + 8..
      u32 which = i % 2 ? 0x7632 : 0x5410;
      int token = i / 2 * 2;
      codes_of<BOTH>(pick_bytes(high[token][word], high[token + 1][word], which),
                     pick_bytes(low[token][word], low[token + 1][word], which), part[i]);
    }
#pragma unroll
    for (int quarter = 0; quarter < 4; quarter++) {
      u32 a[4] = {part[0][quarter], part[1][quarter], part[2][quarter], part[3][quarter]};
      const u32 *b = quarter % 2 ? odd : even;
      multiply(state.out[word][quarter], a, b[0], b[1]);
    }
  }
}

// Fold 16 tokens into the running softmax: rows `line`.. of the stage, of which the first `left` are tokens.
template <bool BOTH>
__device__ __forceinline__ void fold(u32 stage, int line, int left, const Places &at, const Query &query,
                                     State &state) {
  float x[4], step_v[2], offset_v[2];
  scores<BOTH>(stage, line, at, query, x);
#pragma unroll
  for (int i = 0; i < 2; i++) {
    uint2 scale = shared_read<uint2>(stage + at.scale + (line + i * 8) * 8);
    float shift = BOTH ? __uint_as_float(shared_read<u32>(stage + at.scale + (16 + i * 8) * 8)) : SHIFT_HIGH;
    float step = half_low(scale.x), offset = fmaf(shift, step, half_high(scale.x));
    step *= BOTH ? NIBBLE / 16.0f : NIBBLE;
    step_v[i] = half_low(scale.y);
    offset_v[i] = fmaf(shift, step_v[i], half_high(scale.y));
#pragma unroll
    for (int head = 0; head < 2; head++)
      x[2 * i + head] = fmaf(x[2 * i + head], step, query.sum[head] * offset);
  }
  if (left < 16) {
#pragma unroll
    for (int i = 0; i < 4; i++)
      if ((int)(threadIdx.x % 32 / 4) + i / 2 * 8 >= left) x[i] = __int_as_float(0xff800000);
  }
  float over = fmaxf(fmaxf(x[0], x[2]) - state.floor[0], fmaxf(x[1], x[3]) - state.floor[1]);
  if (__any_sync(FULL, over > LIFT + SLACK)) raise(state, x);
  u32 even[2], odd[2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    float near = exp2_fast(x[2 * i] - state.floor[0]), far = exp2_fast(x[2 * i + 1] - state.floor[1]);
    state.mass[0] += near;
    state.mass[1] += far;
    state.constant[0] = fmaf(near, offset_v[i], state.constant[0]);
    state.constant[1] = fmaf(far, offset_v[i], state.constant[1]);
    odd[i] = transpose(to_half2(near * step_v[i], far * step_v[i]));
    // The outputs count as the high nibble's: quarters 1 and 3 16-fold.
    even[i] = BOTH ? halves_times(odd[i], 0x2C002C00u) : odd[i];
  }
  add_values<BOTH>(stage, line, at, even, odd, state);
}

// Rotate the GROUP queries into shared memory as fp16, times the scores' scale, and for `owner` store the new token.
__device__ __forceinline__ void prepare(const Arguments &p, char *memory, int request, int head, bool owner) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  constexpr int ROWS = WARPS < 8 ? 8 / WARPS : 1;
  float x[ROWS][CHANNELS] = {};
#pragma unroll
  for (int i = 0; i < ROWS; i++) {
    int member = warp + i * WARPS;
    if (member < GROUP) read_row(p.query + request * p.query_stride + (head * GROUP + member) * DIM, lane, x[i]);
  }
#pragma unroll
  for (int kind = 0; kind < 2; kind++)
    if (owner && warp == WARPS - 1 - kind) store_row(p, memory + NEW_AT, request, head, kind, lane);
#pragma unroll
  for (int i = 0; i < ROWS; i++) {
    if (warp + i * WARPS >= 8) break;
    rotate(x[i], lane);
    u32 at = Q_AT + ((warp + i * WARPS) * Q_PITCH + lane * CHANNELS) * 2;
#pragma unroll
    for (int j = 0; j < CHANNELS; j += 2)
      *reinterpret_cast<u32 *>(memory + at + j * 2) = to_half2(x[i][j] * p.score_scale, x[i][j + 1] * p.score_scale);
  }
}

__device__ __forceinline__ void load_query(const char *memory, int lane, Query &query) {
  float sum = 0.0f;
#pragma unroll
  for (int pair = 0; pair < K_WORDS / 2; pair++)
#pragma unroll
    for (int quarter = 0; quarter < 4; quarter++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        int channel = quarter * QUARTER + (lane % 4) * (K_WORDS * 2) + pair * 4 + i * 2;
        u32 x = *reinterpret_cast<const u32 *>(memory + Q_AT + (lane / 4 * Q_PITCH + channel) * 2);
        query.part[pair][quarter][i] = x;
        sum += half_low(x) + half_high(x);
      }
  sum += __shfl_xor_sync(FULL, sum, 1);
  sum += __shfl_xor_sync(FULL, sum, 2);
#pragma unroll
  for (int head = 0; head < 2; head++) query.sum[head] = __shfl_sync(FULL, sum, (2 * (lane % 4) + head) * 4);
}

// A warp's ring: STAGES - 1 units are on their way while one is read.
struct Ring {
  u32 base;
  int row, slot;  // this lane's row of the next unit to fetch; its slot of the one after
};

// Start the copies of unit `index` into `stage`, and look ahead to the next two of this warp.
__device__ __forceinline__ void fetch_next(const Arguments &p, const Chunk &chunk, const Source &source,
                                           const Places &at, Ring &ring, int index, u32 stage, int lane) {
  int later = index + 2 * WARPS, middle = later - chunk.heads;
  if (index >= chunk.heads && middle < chunk.middles) {  // high planes alone, as far as one looks
    fetch<false>(stage, source, at, ring.row, lane);
    copies_close();
    int token = chunk.head_end + middle * 32 + lane;
    ring.row = ring.slot;
    ring.slot = token < chunk.tail_start ? chunk.slots[token] : -1;
  } else {
    if (index < chunk.units) {
      if (unit_at(chunk, index).both)
        fetch<true>(stage, source, at, ring.row, lane);
      else
        fetch<false>(stage, source, at, ring.row, lane);
    }
    copies_close();
    ring.row = row_of(p, chunk, index + WARPS, ring.slot, lane);
    ring.slot = slot_of(chunk, later, lane);
  }
}

// ---- merging ------------------------------------------------------------------------------------------------------

// One head's output of this program's warps: CHANNELS channels a lane; returns log2 of the mass.
__device__ __forceinline__ float merge_warps(const char *memory, int head, int lane, float (&x)[CHANNELS]) {
  const float *sums = reinterpret_cast<const float *>(memory + SUMS_AT);
  float top = -1.0e30f, mass = 0.0f, constant = 0.0f;
#pragma unroll
  for (int warp = 0; warp < WARPS; warp++) top = fmaxf(top, sums[warp * 24 + head]);
#pragma unroll
  for (int i = 0; i < CHANNELS; i++) x[i] = 0.0f;
#pragma unroll
  for (int warp = 0; warp < WARPS; warp++) {
    float weight = exp2_fast(sums[warp * 24 + head] - top);
    mass = fmaf(weight, sums[warp * 24 + 8 + head], mass);
    constant = fmaf(weight, sums[warp * 24 + 16 + head], constant);
    const float *row = reinterpret_cast<const float *>(memory + MERGE_AT) + (warp * 8 + head) * O_PITCH + lane * CHANNELS;
#pragma unroll
    for (int i = 0; i < CHANNELS; i++) x[i] = fmaf(weight, row[i], x[i]);
  }
  // A lane's channels lie in one quarter of the head, whose number tells how its codes count.
  float scale = (lane / 8) % 2 ? NIBBLE / 16.0f : NIBBLE, inverse = 1.0f / mass;
#pragma unroll
  for (int i = 0; i < CHANNELS; i++) x[i] = fmaf(x[i], scale, constant) * inverse;
  return top + log2_fast(mass);
}

// One head's output of `count` items from `first` on, CHANNELS channels a lane.
__device__ __forceinline__ void merge_items(const Arguments &p, int first, int count, int head, int lane,
                                            float (&x)[CHANNELS]) {
  int width = p.heads * GROUP;
  float top = -1.0e30f, mass = 0.0f;
#pragma unroll
  for (int i = 0; i < CHANNELS; i++) x[i] = 0.0f;
#pragma unroll 4
  for (int item = first; item < first + count; item++) {
    i64 place = (i64)item * width + head;
    float lse = __ldcg(p.part_lse + place), peak = fmaxf(top, lse);
    float shrink = exp2_fast(top - peak), weight = exp2_fast(lse - peak);
    const float *row = p.part + place * DIM + lane * CHANNELS;
    mass = fmaf(mass, shrink, weight);
    top = peak;
#pragma unroll
    for (int i = 0; i < CHANNELS; i += 2) {
      float2 pair = __ldcg(reinterpret_cast<const float2 *>(row + i));
      x[i] = fmaf(x[i], shrink, weight * pair.x);
      x[i + 1] = fmaf(x[i + 1], shrink, weight * pair.y);
    }
  }
  float inverse = 1.0f / mass;
#pragma unroll
  for (int i = 0; i < CHANNELS; i++) x[i] *= inverse;
}

// Undo the rotation, add the values' centre, and write one query head's output.
__device__ __forceinline__ void finish(const Arguments &p, int request, int head, int member, int lane,
                                       float (&x)[CHANNELS]) {
  rotate(x, lane);
  const float *centre = p.centres + (p.heads + head) * DIM + lane * CHANNELS;
  unsigned short *target = p.out + request * p.out_stride + (head * GROUP + member) * DIM + lane * CHANNELS;
#pragma unroll
  for (int i = 0; i < CHANNELS; i += 2)
    *reinterpret_cast<u32 *>(target + i) = to_model(x[i] + centre[i]) | to_model(x[i + 1] + centre[i + 1]) << 16;
}

// Leave this warp's sums where merge_warps finds them. Without APART the rings must be idle.
__device__ __forceinline__ void leave(char *memory, int warp, int lane, State &state) {
  float *sums = reinterpret_cast<float *>(memory + SUMS_AT) + warp * 24;
#pragma unroll
  for (int head = 0; head < 2; head++) {
#pragma unroll
    for (int span = 4; span < 32; span *= 2) {
      state.mass[head] += __shfl_xor_sync(FULL, state.mass[head], span);
      state.constant[head] += __shfl_xor_sync(FULL, state.constant[head], span);
    }
    int number = 2 * (lane % 4) + head;
    if (lane < 4) {
      sums[number] = state.floor[head];
      sums[8 + number] = state.mass[head];
      sums[16 + number] = state.constant[head];
    }
    float *row = reinterpret_cast<float *>(memory + MERGE_AT) + (warp * 8 + number) * O_PITCH + lane / 4 * (V_WORDS * 2);
#pragma unroll
    for (int word = 0; word < V_WORDS; word++)
#pragma unroll
      for (int quarter = 0; quarter < 4; quarter++) {
        float2 pair = {state.out[word][quarter][head], state.out[word][quarter][head + 2]};
        *reinterpret_cast<float2 *>(row + quarter * QUARTER + word * 2) = pair;
      }
  }
}

struct Whole {
  int request, first, count;  // a request's items: the first, how many
};

// Write the chunk's outputs. Of a request in several chunks, the program that ends last merges them.
__device__ __forceinline__ void conclude(const Arguments &p, char *memory, int item, int head, const Whole &chunk) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int member = warp; member < GROUP; member += WARPS) {
    float x[CHANNELS];
    float lse = merge_warps(memory, member, lane, x);
    if (chunk.count == 1) {
      finish(p, chunk.request, head, member, lane, x);
      continue;
    }
    i64 place = (i64)item * p.heads * GROUP + head * GROUP + member;
#pragma unroll
    for (int i = 0; i < CHANNELS; i += 2)
      *reinterpret_cast<float2 *>(p.part + place * DIM + lane * CHANNELS + i) = float2{x[i], x[i + 1]};
    if (lane == 0) p.part_lse[place] = lse;
  }
  if (chunk.count == 1) return;
  __syncthreads();
  u32 *flag = reinterpret_cast<u32 *>(memory + FLAG_AT);
  if (threadIdx.x == 0) {
    __threadfence();  // of all that the barrier has ordered before it
    *flag = atomicInc(p.done + chunk.request * p.heads + head, chunk.count - 1);
    __threadfence();
  }
  __syncthreads();
  if (*flag != chunk.count - 1) return;
  for (int member = warp; member < GROUP; member += WARPS) {
    float x[CHANNELS];
    merge_items(p, chunk.first, chunk.count, head * GROUP + member, lane, x);
    finish(p, chunk.request, head, member, lane, x);
  }
}

// Read what the plan says of an item, and start this warp's first copies.
__device__ __forceinline__ Chunk begin(const Arguments &p, const Source &source, const Places &at, int item, int lane,
                                       Ring &ring) {
  int warp = threadIdx.x / 32;
  Chunk chunk = read_item(p, item);
  ring.row = row_of(p, chunk, warp, slot_of(chunk, warp, lane), lane);
  ring.slot = slot_of(chunk, warp + WARPS, lane);
#pragma unroll 1
  for (int i = 0; i < STAGES - 1; i++)
    fetch_next(p, chunk, source, at, ring, warp + i * WARPS, ring.base + i * RING_BYTES, lane);
  return chunk;
}

// Fold all units of this warp into `state`.
__device__ __forceinline__ void attend(const Arguments &p, const Chunk &chunk, const Source &source, const Places &at,
                                       const Query &query, int lane, Ring &ring, State &state) {
  u32 stage = ring.base, free_stage = ring.base + (STAGES - 1) * RING_BYTES;
#pragma unroll 1
  for (int index = threadIdx.x / 32; index < chunk.units; index += WARPS) {
    copies_wait<STAGES - 2>();
    __syncwarp();
    fetch_next(p, chunk, source, at, ring, index + (STAGES - 1) * WARPS, free_stage, lane);
    Unit unit = unit_at(chunk, index);
    int left = unit.limit - unit.first;
    if (unit.both) {
      fold<true>(stage, 0, left, at, query, state);
    } else {
#pragma unroll 1
      for (int line = 0; line < 32; line += 16) fold<false>(stage, line, left - line, at, query, state);
    }
    free_stage = stage;
    stage = stage == ring.base + (STAGES - 1) * RING_BYTES ? ring.base : stage + RING_BYTES;
  }
  copies_wait<0>();
}

extern "C" __global__ void __launch_bounds__(WARPS * 32, PLACES) planes_decode(const __grid_constant__ Arguments p) {
  extern __shared__ __align__(128) char memory[];
  int head = blockIdx.x % p.heads, program = blockIdx.x / p.heads, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int item = p.bounds[program], last = p.bounds[program + 1];
  if (item == last) return;
  Places at = places_of(lane);
  Source source{p.codes + head * p.code_stride + lane % PIECES * 16, p.scales + head * p.scale_stride};
  Ring ring{shared_address(memory) + warp * (STAGES * RING_BYTES), 0, 0};
  Chunk chunk = begin(p, source, at, item, lane, ring);
  wait_for_last_kernel();  // which made the queries; what is fetched was there before
#pragma unroll 1
  for (;; item++) {
    prepare(p, memory, chunk.request, head, chunk.owner);
    __syncthreads();
    Query query;
    load_query(memory, lane, query);
    State state = {{-1.0e30f, -1.0e30f}};
    if (chunk.owner && warp == chunk.units % WARPS)
      fold<true>(shared_address(memory) + NEW_AT, 0, 1, at, query, state);
    attend(p, chunk, source, at, query, lane, ring, state);
    Whole whole{chunk.request, chunk.first, chunk.count};
    bool more = item + 1 < last;
    if (!APART) __syncthreads();
    __syncwarp();
    if (APART && more) chunk = begin(p, source, at, item + 1, lane, ring);
    leave(memory, warp, lane, state);
    __syncthreads();
    conclude(p, memory, item, head, whole);
    if (!more) return;
    if (APART) continue;
    __syncthreads();
    chunk = begin(p, source, at, item + 1, lane, ring);
  }
}
