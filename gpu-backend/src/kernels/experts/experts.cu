// experts: y = Σ over a row's experts of down·t, t = silu(min(gate·v, limit))·clamp(up·v, ±limit)·w, plus
// the shared expert (`experts.ts`).
//
// Few rows, two launches. A block belongs to one place of `[rows, experts a token]`; the first place an
// expert stands in works for all of its places, so that its weights are read once, and the others only
// count. The last block of some outputs adds a row's experts up, in their order. Many rows: places are
// first sorted by expert, then 32 of one expert at a time meet 256 outputs.
//
// Where several GPUs share the experts, places of others' are passed over and nothing is added up
// (`expert-sum`).

#include "experts.h"

namespace sluice {
namespace {

constexpr int manyTiles = 4;
constexpr int manyTokens = tokensOfTile * manyTiles;

/// Places that one block works for: those of one expert, or rows of the shared one.
struct Group {
  Projections expert;
  const int* members;
  int count;
  bool shared;
};

SLUICE_DEVICE Projections expertAt(const Projections& stack, int index) {
  return {stack.gate.at(index), stack.up.at(index), stack.down.at(index)};
}

/// Brings together the places of this block's expert, in ascending order; none where an earlier place has
/// it. By all threads; `members` has room for every place, `room` is an int.
SLUICE_DEVICE Group groupOf(const ExpertsArgs& args, int* members, int* room) {
  const int places = args.places();
  const int place = static_cast<int>(blockIdx.y);
  if (place >= places) {
    const int first = (place - places) * tokensOfTile;
    const int left = args.sharedRows - first;
    const int count = left < tokensOfTile ? left : tokensOfTile;
    if (static_cast<int>(threadIdx.x) < count) {
      members[threadIdx.x] = places + first + static_cast<int>(threadIdx.x);
    }
    __syncthreads();
    return {args.shared, members, count, true};
  }
  const int expert = args.expertOf(place);
  if (expert < 0) return {args.routed, members, 0, false};
  if (warpOf() == 0) {
    int count = 0;
    bool owner = true;
    for (int first = 0; first < places; first += 32) {
      const int other = first + laneOf();
      const bool same = other < places && args.expertOf(other) == expert;
      const uint32_t votes = __ballot_sync(allLanes, same);
      owner = owner && __ballot_sync(allLanes, same && other < place) == 0;
      if (same) members[count + __popc(votes & ((1u << laneOf()) - 1))] = other;
      count += __popc(votes);
    }
    if (laneOf() == 0) *room = owner ? count : 0;
  }
  __syncthreads();
  const int count = *room;
  __syncthreads();
  return {expertAt(args.routed, expert), members, count, false};
}

/// The row of the input that a place stands for.
SLUICE_DEVICE int rowOf(const ExpertsArgs& args, int place) {
  return place < args.places() ? place / args.picked : place - args.places() + args.sharedFirst;
}

/// Adds up a row's experts and the shared one, for `count` outputs from `first` on.
SLUICE_DEVICE void sumPlaces(const ExpertsArgs& args, int row, int first, int count) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
    const int output = first + i;
    if (output >= args.hidden) continue;
    float sum = 0;
    for (int slot = 0; slot < args.picked; slot++) {
      sum += args.results[(int64_t{row} * args.picked + slot) * args.hidden + output];
    }
    const float shared = args.sharedResults[int64_t{row} * args.hidden + output];
    args.output[int64_t{row} * args.hidden + output] = sum + shared;
  }
}

/// This block's tile of a sorted expert or of the shared one; empty beyond the last.
SLUICE_DEVICE Group tileOf(const ExpertsArgs& args, int* members) {
  const int tile = static_cast<int>(blockIdx.y);
  const int sharedTiles = (args.sharedRows + manyTokens - 1) / manyTokens;
  const int i = static_cast<int>(threadIdx.x);
  if (tile < sharedTiles) {
    const int left = args.sharedRows - tile * manyTokens;
    const int count = left < manyTokens ? left : manyTokens;
    if (i < count) members[i] = args.places() + tile * manyTokens + i;
    __syncthreads();
    return {args.shared, members, count, true};
  }
  const int routed = tile - sharedTiles;
  if (routed >= args.firstTile[args.expertCount]) return {args.shared, members, 0, false};
  int low = 0;
  int high = args.expertCount - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (args.firstTile[middle] <= routed) low = middle;
    else high = middle - 1;
  }
  const int first = args.firstPlace[low] + (routed - args.firstTile[low]) * manyTokens;
  const int left = args.firstPlace[low + 1] - first;
  const int count = left < manyTokens ? left : manyTokens;
  if (i < count) members[i] = args.sorted[first + i];
  __syncthreads();
  return {expertAt(args.routed, low), members, count, false};
}

}  // namespace

SLUICE_KERNEL(experts_up, ExpertsArgs, 256, 2) {
  SLUICE_DYNAMIC_SHARED(shared);
  int* const members = reinterpret_cast<int*>(shared) + 4;
  unsigned char* const tile = shared + (4 + args.places() + tokensOfTile) / 4 * 16;
  const Group group = groupOf(args, members, reinterpret_cast<int*>(shared));
  const Matrix matrices[2] = {group.expert.gate, group.expert.up};
  const int firstOutput = static_cast<int>(blockIdx.x) * warpOutputs;
  if (firstOutput >= matrices[0].rows) return;
  const bool quantise = args.quantise != 0 && matrices[0].dtype != DType::bf16;
  for (int first = 0; first < group.count; first += tokensOfTile) {
    const auto row = [&](int token) -> const float* {
      if (first + token >= group.count) return nullptr;
      return args.input + int64_t{rowOf(args, group.members[first + token])} * args.hidden;
    };
    Sums<1> sums[2];
    multiplySlice(sums, matrices, firstOutput, row, quantise, tile);
    // As many outputs and tokens as threads: the same thread gets both sums.
    float gate = 0;
    sumSlices(sums[0], tile, [&](int, int, float sum) { gate = sum; });
    sumSlices(sums[1], tile, [&](int output, int token, float sum) {
      if (first + token >= group.count || firstOutput + output >= matrices[0].rows) return;
      storeInner(args, group.members[first + token], firstOutput + output, gate, sum);
    });
  }
}

SLUICE_KERNEL(experts_down, ExpertsArgs, 256, 2) {
  SLUICE_DYNAMIC_SHARED(shared);
  int* const room = reinterpret_cast<int*>(shared);
  int* const members = room + 4;
  unsigned char* const tile = shared + (4 + args.places() + tokensOfTile) / 4 * 16;
  const Group group = groupOf(args, members, room);
  const Matrix& matrix = group.expert.down;
  const int firstOutput = static_cast<int>(blockIdx.x) * warpOutputs;
  const bool quantise = args.quantise != 0 && matrix.dtype != DType::bf16;
  for (int first = 0; first < group.count; first += tokensOfTile) {
    const auto row = [&](int token) -> const float* {
      if (first + token >= group.count) return nullptr;
      return args.inner + int64_t{group.members[first + token]} * args.innerStride;
    };
    const auto store = [&](int output, int token, float sum) {
      if (first + token >= group.count || firstOutput + output >= args.hidden) return;
      args.resultOf(group.members[first + token])[firstOutput + output] = sum;
    };
    multiplyFew<1>(matrix, firstOutput, row, quantise, tile, store);
  }
  if (args.whole == 0) return;
  if (!lastToArrive(args.counters + blockIdx.x, gridDim.y, room)) return;
  for (int r = 0; r < args.rows; r++) sumPlaces(args, r, firstOutput, warpOutputs);
}

/// Places by expert; one block. Results do not depend on their order within an expert.
SLUICE_KERNEL(experts_sort, ExpertsArgs, 256, 2) {
  SLUICE_DYNAMIC_SHARED(shared);
  unsigned* const next = reinterpret_cast<unsigned*>(shared);
  const int step = static_cast<int>(blockDim.x);
  const int start = static_cast<int>(threadIdx.x);
  for (int e = start; e < args.expertCount; e += step) next[e] = 0;
  __syncthreads();
  for (int place = start; place < args.places(); place += step) {
    const int expert = args.expertOf(place);
    if (expert >= 0) atomicAdd(&next[expert], 1u);
  }
  __syncthreads();
  if (start == 0) {
    int place = 0;
    int tile = 0;
    for (int e = 0; e < args.expertCount; e++) {
      const int count = static_cast<int>(next[e]);
      args.firstPlace[e] = place;
      args.firstTile[e] = tile;
      next[e] = static_cast<unsigned>(place);
      place += count;
      tile += (count + manyTokens - 1) / manyTokens;
    }
    args.firstPlace[args.expertCount] = place;
    args.firstTile[args.expertCount] = tile;
  }
  __syncthreads();
  for (int place = start; place < args.places(); place += step) {
    const int expert = args.expertOf(place);
    if (expert >= 0) args.sorted[atomicAdd(&next[expert], 1u)] = place;
  }
}

SLUICE_KERNEL(experts_up_many, ExpertsArgs, 256, 1) {
  SLUICE_DYNAMIC_SHARED(shared);
  int* const members = reinterpret_cast<int*>(shared);
  const Group group = tileOf(args, members);
  const Matrix matrices[2] = {group.expert.gate, group.expert.up};
  const int blockOutput = static_cast<int>(blockIdx.x) * warpOutputs * columnSlices;
  if (group.count == 0 || blockOutput >= matrices[0].rows) return;
  const int firstOutput = blockOutput + warpOf() * warpOutputs;
  const auto row = [&](int token) -> const float* {
    if (token >= group.count) return nullptr;
    return args.input + int64_t{rowOf(args, group.members[token])} * args.hidden;
  };
  const bool quantise = args.quantise != 0 && matrices[0].dtype != DType::bf16;
  Sums<manyTiles> totals[2];
  multiplyMany(totals, matrices, firstOutput, row, quantise, shared + 4 * manyTokens);
#pragma unroll
  for (int m = 0; m < 2; m++) {
#pragma unroll
    for (int n = 0; n < manyTiles; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int output = firstOutput + 16 * m + laneOf() / 4 + 8 * (i / 2);
        const int token = tokensOfTile * n + 2 * (laneOf() % 4) + i % 2;
        if (token >= group.count || output >= matrices[0].rows) continue;
        storeInner(args, group.members[token], output, totals[0].c[m][n][i], totals[1].c[m][n][i]);
      }
    }
  }
}

SLUICE_KERNEL(experts_down_many, ExpertsArgs, 256, 1) {
  SLUICE_DYNAMIC_SHARED(shared);
  int* const members = reinterpret_cast<int*>(shared);
  const Group group = tileOf(args, members);
  if (group.count == 0) return;
  const Matrix matrices[1] = {group.expert.down};
  const int firstOutput =
      static_cast<int>(blockIdx.x) * warpOutputs * columnSlices + warpOf() * warpOutputs;
  const auto row = [&](int token) -> const float* {
    if (token >= group.count) return nullptr;
    return args.inner + int64_t{group.members[token]} * args.innerStride;
  };
  const bool quantise = args.quantise != 0 && matrices[0].dtype != DType::bf16;
  Sums<manyTiles> totals[1];
  multiplyMany(totals, matrices, firstOutput, row, quantise, shared + 4 * manyTokens);
  totals[0].forEach([&](int output, int token, float sum) {
    if (token >= group.count || firstOutput + output >= args.hidden) return;
    args.resultOf(group.members[token])[firstOutput + output] = sum;
  });
}

SLUICE_KERNEL(experts_sum, ExpertsArgs, 256, 2) {
  sumPlaces(args, static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y * blockDim.x),
            static_cast<int>(blockDim.x));
}

}  // namespace sluice
