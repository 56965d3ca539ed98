// index-select: the entries a query attends to (`index-select.ts`).
//
// One launch: blocks score entries of a row, 64 at a time in shared memory; the row's last block picks by
// the digits of the scores as ordered integers: four passes find the smallest score that is in, and one
// more writes entry numbers in ascending order, of equal scores the first. Compact entries, which
// bfloat16 holds exactly, meet up to 64 heads on the tensor cores; others are scored in fp32.

#include "../cuda/batch.h"
#include "../cuda/compact-rows.h"
#include "../cuda/mma.h"

namespace sluice {
namespace {

constexpr int threads = 256;
constexpr int entriesOfTile = 64;
constexpr int headsOfChunk = 16;
constexpr int digits = 256;

struct IndexSelectArgs {
  const float* queries;
  const float* weights;
  EntryPages entries;
  const BatchRow* rows;
  int* selected;
  float* scores;
  unsigned* counters;
  RowLayout layout;
  int heads;
  int head;
  int ratio;
  int limit;
  int capacity;
  float scale;
};

/// Floats as integers of the same order; −0 is 0.
SLUICE_DEVICE uint32_t ordered(float score) {
  const uint32_t bits = __float_as_uint(score + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

/// Scores of up to 64 entries from `first` on. Thread t has entry t mod 64 and four of the sixteen heads
/// in shared memory.
SLUICE_DEVICE void scoreTile(const IndexSelectArgs& args, int row, int slot, int first, int visible,
                             float* keys, float* queries, float* parts, float* scores) {
  const int head = args.head;
  const int entry = static_cast<int>(threadIdx.x) % entriesOfTile;
  const int group = static_cast<int>(threadIdx.x) / entriesOfTile;
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < entriesOfTile * head; i += threads) {
    const int number = first + i / head;
    const uint8_t* const key = number < visible ? args.entries.row(slot, number) : nullptr;
    keys[i / head * (head + 1) + i % head] = key == nullptr ? 0.0f : args.layout.at(key, i % head);
  }
  float score = 0;
  for (int from = 0; from < args.heads; from += headsOfChunk) {
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < headsOfChunk * head; i += threads) {
      const int h = from + i / head;
      queries[i % head * headsOfChunk + i / head] =
          h < args.heads ? args.queries[(int64_t{row} * args.heads + h) * head + i % head] : 0.0f;
    }
    __syncthreads();
    float dots[4] = {0, 0, 0, 0};
    for (int i = 0; i < head; i++) {
      const float key = keys[entry * (head + 1) + i];
      const float4 four =
          *reinterpret_cast<const float4*>(queries + i * headsOfChunk + 4 * group);
      dots[0] += key * four.x;
      dots[1] += key * four.y;
      dots[2] += key * four.z;
      dots[3] += key * four.w;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int h = from + 4 * group + i;
      if (h >= args.heads) continue;
      score += args.weights[int64_t{row} * args.heads + h] * args.scale * fmaxf(0.0f, dots[i]);
    }
  }
  parts[threadIdx.x] = score;
  __syncthreads();
  if (group == 0 && first + entry < visible) {
    scores[first + entry] = parts[entry] + parts[entry + 64] + parts[entry + 128] + parts[entry + 192];
  }
}

/// Heads of the tensor cores' kernel, and from one row of bfloat16 to the next: rows in different banks.
constexpr int headsMax = 64;
SLUICE_DEVICE int rowStride(int head) { return head + 8; }

/// A row's queries as bfloat16 `[headsMax][rowStride]`, zeros beyond the last head.
SLUICE_DEVICE void loadQueries(const IndexSelectArgs& args, int row, uint16_t* queries) {
  const int stride = rowStride(args.head);
  for (int i = static_cast<int>(threadIdx.x); i < headsMax * args.head; i += threads) {
    const int h = i / args.head;
    const float value =
        h < args.heads ? args.queries[int64_t{row} * args.heads * args.head + i] : 0.0f;
    queries[h * stride + i % args.head] = static_cast<uint16_t>(toBf16(value));
  }
}

/// Scores of up to 64 entries from `first` on, eight a warp: a tile of sixteen heads by eight entries at
/// a time, then the heads' share of each entry added up within the warp.
SLUICE_DEVICE void scoreTileWide(const IndexSelectArgs& args, int row, int slot, int first,
                                 int visible, const uint16_t* queries, uint16_t* keys,
                                 float* scores) {
  const int head = args.head;
  const int stride = rowStride(head);
  const int g = laneOf() / 4;
  const int t = laneOf() % 4;
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < entriesOfTile * head; i += threads) {
    const int number = first + i / head;
    const uint8_t* const key = number < visible ? args.entries.row(slot, number) : nullptr;
    const float value = key == nullptr ? 0.0f : args.layout.at(key, i % head);
    keys[i / head * stride + i % head] = static_cast<uint16_t>(toBf16(value));
  }
  __syncthreads();
  float sums[2] = {0, 0};
  for (int from = 0; from < args.heads; from += 16) {
    float c[4] = {0, 0, 0, 0};
    for (int step = 0; step < head; step += 16) {
      uint32_t a[4];
#pragma unroll
      for (int j = 0; j < 4; j++) {
        a[j] = *reinterpret_cast<const uint32_t*>(queries + (from + g + 8 * (j % 2)) * stride + step +
                                                  2 * t + 8 * (j / 2));
      }
      const uint16_t* const at = keys + (8 * warpOf() + g) * stride + step + 2 * t;
      const uint32_t b[2] = {*reinterpret_cast<const uint32_t*>(at),
                             *reinterpret_cast<const uint32_t*>(at + 8)};
      mmaBf16(c, a, b);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int h = from + g + 8 * (i / 2);
      if (h >= args.heads) continue;
      const float weight = args.weights[int64_t{row} * args.heads + h] * args.scale;
      sums[i % 2] += weight * fmaxf(0.0f, c[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < 2; i++) {
    for (int distance = 16; distance >= 4; distance /= 2) {
      sums[i] += __shfl_xor_sync(allLanes, sums[i], distance);
    }
    const int entry = first + 8 * warpOf() + 2 * t + i;
    if (g == 0 && entry < visible) scores[entry] = sums[i];
  }
}

/// How many of the threads before this one have the flag, and of all; `room`: 8 ints. By all threads.
SLUICE_DEVICE int countBefore(bool flag, int* room, int* all) {
  const uint32_t votes = __ballot_sync(allLanes, flag);
  if (laneOf() == 0) room[warpOf()] = __popc(votes);
  __syncthreads();
  int before = __popc(votes & ((1u << laneOf()) - 1));
  int total = 0;
  for (int warp = 0; warp < threads / 32; warp++) {
    if (warp < warpOf()) before += room[warp];
    total += room[warp];
  }
  __syncthreads();
  *all = total;
  return before;
}

/// The ordered score of the last one picked, and how many of those equal to it are.
struct Threshold {
  uint32_t score;
  int equal;
};

SLUICE_DEVICE Threshold findThreshold(const float* scores, int visible, int limit, unsigned* counts) {
  Threshold found = {0, limit};
  for (int shift = 24; shift >= 0; shift -= 8) {
    counts[threadIdx.x] = 0;
    __syncthreads();
    const uint32_t decided = shift == 24 ? 0u : 0xffffffffu << (shift + 8);
    for (int i = static_cast<int>(threadIdx.x); i < visible; i += threads) {
      const uint32_t score = ordered(scores[i]);
      if ((score & decided) == found.score) atomicAdd(&counts[score >> shift & 255u], 1u);
    }
    __syncthreads();
    int digit = digits - 1;
    while (static_cast<int>(counts[digit]) < found.equal) {
      found.equal -= static_cast<int>(counts[digit]);
      digit--;
    }
    found.score |= static_cast<uint32_t>(digit) << shift;
    __syncthreads();
  }
  return found;
}

SLUICE_DEVICE void writePicks(const IndexSelectArgs& args, const float* scores, int visible,
                              int* selected, unsigned* counts) {
  const Threshold threshold = findThreshold(scores, visible, args.limit, counts);
  int* const room = reinterpret_cast<int*>(counts);
  int written = 0;
  int equalSeen = 0;
  for (int first = 0; first < visible; first += threads) {
    const int i = first + static_cast<int>(threadIdx.x);
    const uint32_t score = i < visible ? ordered(scores[i]) : 0u;
    const bool equal = i < visible && score == threshold.score;
    int equals = 0;
    const int equalBefore = equalSeen + countBefore(equal, room, &equals);
    equalSeen += equals;
    const bool larger = i < visible && score > threshold.score;
    const bool taken = larger || (equal && equalBefore < threshold.equal);
    int takes = 0;
    const int place = written + countBefore(taken, room, &takes);
    written += takes;
    if (taken) selected[place] = i;
  }
}

/// With no more entries than places there is nothing to choose: the row's first block lists them all.
SLUICE_DEVICE bool listsAll(const IndexSelectArgs& args, int row, int visible) {
  if (visible > args.limit) return false;
  int* const selected = args.selected + int64_t{row} * args.limit;
  for (int i = static_cast<int>(threadIdx.x); i < args.limit && blockIdx.x == 0; i += threads) {
    selected[i] = i < visible ? i : -1;
  }
  return true;
}

/// The row's last block picks, once `counts`, 256 words, are no longer of use to anything else.
SLUICE_DEVICE void pick(const IndexSelectArgs& args, int row, int visible, unsigned* counts) {
  if (!lastToArrive(args.counters + row, gridDim.x, reinterpret_cast<int*>(counts))) return;
  writePicks(args, args.scores + int64_t{row} * args.capacity, visible,
             args.selected + int64_t{row} * args.limit, counts);
}

}  // namespace

SLUICE_KERNEL(index_select, IndexSelectArgs, threads, 2) {
  SLUICE_DYNAMIC_SHARED(shared);
  unsigned* const counts = reinterpret_cast<unsigned*>(shared);
  float* const parts = reinterpret_cast<float*>(counts + digits);
  float* const queries = parts + threads;
  float* const keys = queries + headsOfChunk * args.head;
  const int row = static_cast<int>(blockIdx.y);
  const BatchRow at = args.rows[row];
  const int visible = visibleEntries(at.position, args.ratio);
  if (listsAll(args, row, visible)) return;
  float* const scores = args.scores + int64_t{row} * args.capacity;
  const int step = static_cast<int>(gridDim.x) * entriesOfTile;
  for (int first = static_cast<int>(blockIdx.x) * entriesOfTile; first < visible; first += step) {
    scoreTile(args, row, at.slot, first, visible, keys, queries, parts, scores);
  }
  pick(args, row, visible, counts);
}

SLUICE_KERNEL(index_select_tiles, IndexSelectArgs, threads, 2) {
  SLUICE_DYNAMIC_SHARED(shared);
  unsigned* const counts = reinterpret_cast<unsigned*>(shared);
  uint16_t* const queries = reinterpret_cast<uint16_t*>(counts + digits);
  uint16_t* const keys = queries + headsMax * rowStride(args.head);
  const int row = static_cast<int>(blockIdx.y);
  const BatchRow at = args.rows[row];
  const int visible = visibleEntries(at.position, args.ratio);
  if (listsAll(args, row, visible)) return;
  loadQueries(args, row, queries);
  float* const scores = args.scores + int64_t{row} * args.capacity;
  const int step = static_cast<int>(gridDim.x) * entriesOfTile;
  for (int first = static_cast<int>(blockIdx.x) * entriesOfTile; first < visible; first += step) {
    scoreTileWide(args, row, at.slot, first, visible, queries, keys, scores);
  }
  pick(args, row, visible, counts);
}

}  // namespace sluice
