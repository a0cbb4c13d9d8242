// Hand the low plane of the token that leaves a session's newest ones to the session's new token: reference.pass_low says
// what for. One request a thread. Two requests that share a prefix can leave the same token at once: the exchange gives its low
// plane to one of them.

typedef long long i64;

struct Handover {
  int *low_of;       // (slots)
  const int *table;  // (rows, context)
  const i64 *rows, *positions, *loc;  // (count)
  const int *policy;                  // (rows)
  i64 row_stride;
  int count, sinks, recent;
};

extern "C" __global__ void planes_pass_low(const __grid_constant__ Handover p) {
  int request = blockIdx.x * 128 + threadIdx.x;
  if (request >= p.count) return;
  i64 row = p.rows[request], position = p.positions[request];
  if (p.policy[row] != 4 || position < p.sinks + p.recent) return;
  int old = p.table[row * p.row_stride + position - p.recent];
  p.low_of[p.loc[request]] = atomicExch(p.low_of + old, -1);
}
