#pragma once

#include "../cuda/mma.h"
#include "keys.h"

// Attention over compact rows on the tensor cores: sixteen heads of a row and sixteen keys at a time.
//
// Keys lie in shared memory in bfloat16, which holds what compact rows stand for exactly; queries and
// softmax weights are rounded to it. A warp takes a quarter of the dimensions, both of the scores, whose
// parts meet in shared memory, and of the values. Heads are the rows of the tensor cores' tiles.

namespace sluice::tiles {

constexpr int headsOfBlock = 16;
constexpr int keysOfTile = 16;
constexpr int warps = attentionThreads / 32;
/// Sixteen dimensions each; a warp has every fourth, up to 512 dimensions in all.
constexpr int stepsMax = 8;
constexpr int weightStride = keysOfTile + 8;
/// Threads that bring one key in, eight values at a time, and that weigh one head's keys.
constexpr int lanesOfKey = attentionThreads / keysOfTile;

/// Shared memory of a block; `attention/cuda.ts` counts it.
struct Room {
  int stride;
  uint16_t* keys;
  float* scores;
  uint16_t* weights;
  float* factors;
  float* largest;
  float* sums;
  int* present;
  int* last;

  SLUICE_DEVICE Room(unsigned char* shared, int head) {
    stride = (head + 15) / 16 * 16 + 8;
    keys = reinterpret_cast<uint16_t*>(shared);
    scores = reinterpret_cast<float*>(keys + keysOfTile * stride);
    weights = reinterpret_cast<uint16_t*>(scores + warps * headsOfBlock * keysOfTile);
    factors = reinterpret_cast<float*>(weights + headsOfBlock * weightStride);
    largest = factors + headsOfBlock;
    sums = largest + headsOfBlock;
    present = reinterpret_cast<int*>(sums + headsOfBlock);
    last = present + keysOfTile;
  }
};

/// This warp's share of sixteen queries, as left factors of the scores.
struct Queries {
  uint32_t a[stepsMax][4];

  SLUICE_DEVICE void load(const AttentionArgs& args, int row, int firstHead) {
    const int g = laneOf() / 4;
    const int t = laneOf() % 4;
#pragma unroll
    for (int i = 0; i < stepsMax; i++) {
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const int h = firstHead + g + 8 * (j % 2);
        const int dimension = 16 * (warpOf() + warps * i) + 2 * t + 8 * (j / 2);
        const bool there = h < args.heads && dimension < args.head;
        const float* const q =
            args.queries + (int64_t{row} * args.heads + h) * args.head + dimension;
        a[i][j] = there ? packBf16(q[0], dimension + 1 < args.head ? q[1] : 0.0f) : 0u;
      }
    }
  }
};

/// Eight values of a key of this step as a compact row would give them back; eight lanes with 64 of them
/// share a scale. Every lane comes, those of other keys with `own` null.
SLUICE_DEVICE void roundOwn(const float* own, float (&values)[8]) {
  uint32_t largest = 0;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    values[i] = own == nullptr ? 0.0f : own[i];
    const uint32_t bits = magnitudeBits(values[i]);
    largest = bits > largest ? bits : largest;
  }
  for (int distance = 4; distance > 0; distance /= 2) {
    const uint32_t other = __shfl_xor_sync(allLanes, largest, distance);
    largest = other > largest ? other : largest;
  }
  const float scale = fp8Scale(largest);
  const float inverse = 1.0f / scale;
#pragma unroll
  for (int i = 0; i < 8; i++) values[i] = roundE4m3(values[i] * inverse) * scale;
}

/// Eight values of a compact row that share a scale.
SLUICE_DEVICE void decodeCodes(const RowLayout& layout, const uint8_t* row, int from,
                               float (&values)[8]) {
  const uint2 codes = *reinterpret_cast<const uint2*>(row + from);
  const float scale = fromE8m0(row[layout.plain + 2 * layout.rotated + from / keyBlock]);
#pragma unroll
  for (int i = 0; i < 8; i++) {
    values[i] = fromAnyE4m3((i < 4 ? codes.x : codes.y) >> (8 * (i % 4)) & 0xffu) * scale;
  }
}

/// Brings a tile of keys in; what is beyond a row, and keys that are not, are zeros.
SLUICE_DEVICE void loadKeys(const AttentionArgs& args, const KeyList& list, int first, int end,
                            const Room& room) {
  const int place = static_cast<int>(threadIdx.x) / lanesOfKey;
  const int lane = static_cast<int>(threadIdx.x) % lanesOfKey;
  const Key key = first + place < end ? keyAt(args, list, first + place) : Key{nullptr, nullptr};
  const bool anyOwn = __ballot_sync(allLanes, key.own != nullptr) != 0;
  uint16_t* const into = room.keys + place * room.stride;
  const int plain = args.layout.plain;
  for (int from = 8 * lane; from < plain; from += keyBlock) {
    float values[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    if (anyOwn) roundOwn(key.own == nullptr ? nullptr : key.own + from, values);
    if (key.cached != nullptr) decodeCodes(args.layout, key.cached, from, values);
    const uint4 packed = {packBf16(values[0], values[1]), packBf16(values[2], values[3]),
                          packBf16(values[4], values[5]), packBf16(values[6], values[7])};
    *reinterpret_cast<uint4*>(into + from) = packed;
  }
  for (int i = plain + lane; i < room.stride; i += lanesOfKey) {
    float value = 0;
    if (i < args.head && key.own != nullptr) value = key.own[i];
    if (i < args.head && key.cached != nullptr) value = args.layout.at(key.cached, i);
    into[i] = static_cast<uint16_t>(toBf16(value));
  }
  if (lane == 0) room.present[place] = key.own != nullptr || key.cached != nullptr;
}

/// This warp's part of the scores of a tile.
SLUICE_DEVICE void scoreKeys(const AttentionArgs& args, const Queries& queries, const Room& room) {
  const int g = laneOf() / 4;
  const int t = laneOf() % 4;
  float c[2][4] = {};
#pragma unroll
  for (int i = 0; i < stepsMax; i++) {
    const int step = 16 * (warpOf() + warps * i);
    if (step >= args.head) continue;
#pragma unroll
    for (int n = 0; n < 2; n++) {
      const uint16_t* const at = room.keys + (8 * n + g) * room.stride + step + 2 * t;
      const uint32_t b[2] = {*reinterpret_cast<const uint32_t*>(at),
                             *reinterpret_cast<const uint32_t*>(at + 8)};
      mmaBf16(c[n], queries.a[i], b);
    }
  }
  float* const own = room.scores + warpOf() * headsOfBlock * keysOfTile;
#pragma unroll
  for (int n = 0; n < 2; n++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      own[(g + 8 * (i / 2)) * keysOfTile + 8 * n + 2 * t + i % 2] = c[n][i];
    }
  }
}

/// A head's maximum and sum so far, held alike by the eight threads that weigh its keys.
struct Running {
  float largest;
  float sum;
};

/// Weights of a tile's keys under the maximum so far; each thread two keys of a head.
SLUICE_DEVICE void weighKeys(const AttentionArgs& args, const Room& room, Running& running) {
  const int h = static_cast<int>(threadIdx.x) / lanesOfKey;
  const int first = 2 * (static_cast<int>(threadIdx.x) % lanesOfKey);
  float scores[2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    float sum = 0;
    for (int warp = 0; warp < warps; warp++) {
      sum += room.scores[(warp * headsOfBlock + h) * keysOfTile + first + i];
    }
    scores[i] = room.present[first + i] != 0 ? sum * args.scale : -INFINITY;
  }
  float largest = fmaxf(running.largest, fmaxf(scores[0], scores[1]));
  for (int distance = lanesOfKey / 2; distance > 0; distance /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(allLanes, largest, distance));
  }
  const uint32_t pair = packBf16(expBelow(scores[0], largest), expBelow(scores[1], largest));
  *reinterpret_cast<uint32_t*>(room.weights + h * weightStride + first) = pair;
  // The sum is of what the values are multiplied by.
  float sum = fromBf16(pair & 0xffffu) + fromBf16(pair >> 16);
  for (int distance = lanesOfKey / 2; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(allLanes, sum, distance);
  }
  const float factor = expBelow(running.largest, largest);
  if (first == 0) room.factors[h] = factor;
  running.sum = fmaf(running.sum, factor, sum);
  running.largest = largest;
}

/// Values of sixteen heads, this warp's quarter of the dimensions; maximum and sum of this lane's two.
struct Part {
  float values[stepsMax][2][4];
  float largest[2];
  float sums[2];

  SLUICE_DEVICE void clear() {
#pragma unroll
    for (int i = 0; i < stepsMax; i++) {
#pragma unroll
      for (int j = 0; j < 8; j++) values[i][j / 4][j % 4] = 0;
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      largest[half] = -INFINITY;
      sums[half] = 0;
    }
  }

  /// Calls `visit(half, dimension, value)`: `half` tells which of this lane's two heads.
  template <class Visit>
  SLUICE_DEVICE void forEach(int head, Visit visit) {
#pragma unroll
    for (int i = 0; i < stepsMax; i++) {
      const int step = 16 * (warpOf() + warps * i);
      if (step >= head) continue;
#pragma unroll
      for (int j = 0; j < 8; j++) {
        const int dimension = step + 8 * (j / 4) + 2 * (laneOf() % 4) + j % 2;
        if (dimension < head) visit(j % 4 / 2, dimension, values[i][j / 4][j % 4]);
      }
    }
  }
};

SLUICE_DEVICE void addValues(const AttentionArgs& args, const Room& room, Part& part) {
  const int g = laneOf() / 4;
  const int t = laneOf() % 4;
  uint32_t a[4];
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const uint16_t* const at = room.weights + (g + 8 * (j % 2)) * weightStride + 2 * t + 8 * (j / 2);
    a[j] = *reinterpret_cast<const uint32_t*>(at);
  }
  const float factors[2] = {room.factors[g], room.factors[g + 8]};
#pragma unroll
  for (int i = 0; i < stepsMax; i++) {
    const int step = 16 * (warpOf() + warps * i);
    if (step >= args.head) continue;
    uint32_t r[4];
    loadColumns(r, room.keys + step, room.stride);
#pragma unroll
    for (int n = 0; n < 2; n++) {
#pragma unroll
      for (int j = 0; j < 4; j++) part.values[i][n][j] *= factors[j / 2];
      const uint32_t b[2] = {r[2 * n], r[2 * n + 1]};
      mmaBf16(part.values[i][n], a, b);
    }
  }
}

/// All keys of part `number` of a row.
SLUICE_DEVICE void runPart(const AttentionArgs& args, const KeyList& list, int number,
                           const Queries& queries, const Room& room, Part& part) {
  part.clear();
  Running running = {-INFINITY, 0};
  const int end = list.partBegin(number + 1);
  for (int first = list.partBegin(number); first < end; first += keysOfTile) {
    __syncthreads();
    loadKeys(args, list, first, end, room);
    __syncthreads();
    scoreKeys(args, queries, room);
    __syncthreads();
    weighKeys(args, room, running);
    __syncthreads();
    addValues(args, room, part);
  }
  if (threadIdx.x % lanesOfKey == 0) {
    room.largest[threadIdx.x / lanesOfKey] = running.largest;
    room.sums[threadIdx.x / lanesOfKey] = running.sum;
  }
  __syncthreads();
#pragma unroll
  for (int half = 0; half < 2; half++) {
    part.largest[half] = room.largest[laneOf() / 4 + 8 * half];
    part.sums[half] = room.sums[laneOf() / 4 + 8 * half];
  }
}

SLUICE_DEVICE void joinPart(Part& whole, const Part& part) {
  float before[2];
  float after[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const float largest = fmaxf(whole.largest[half], part.largest[half]);
    before[half] = expBelow(whole.largest[half], largest);
    after[half] = expBelow(part.largest[half], largest);
    join(whole.sums[half], before[half], part.sums[half], after[half]);
    whole.largest[half] = largest;
  }
#pragma unroll
  for (int i = 0; i < stepsMax; i++) {
#pragma unroll
    for (int j = 0; j < 8; j++) {
      const int half = j % 4 / 2;
      join(whole.values[i][j / 4][j % 4], before[half], part.values[i][j / 4][j % 4], after[half]);
    }
  }
}

/// Where this lane's head `half` keeps part `number`; null beyond the last head.
SLUICE_DEVICE float* placeOf(const AttentionArgs& args, int row, int firstHead, int half, int number) {
  const int h = firstHead + laneOf() / 4 + 8 * half;
  return h < args.heads ? partAt(args, row, h, number) : nullptr;
}

SLUICE_DEVICE void storePart(const AttentionArgs& args, int row, int firstHead, int number,
                             Part& part) {
  float* const places[2] = {placeOf(args, row, firstHead, 0, number),
                            placeOf(args, row, firstHead, 1, number)};
  part.forEach(args.head, [&](int half, int dimension, float& value) {
    if (places[half] != nullptr) places[half][4 + dimension] = value;
  });
  if (warpOf() != 0 || laneOf() % 4 != 0) return;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    if (places[half] == nullptr) continue;
    places[half][0] = part.largest[half];
    places[half][1] = part.sums[half];
  }
}

SLUICE_DEVICE void loadPart(const AttentionArgs& args, int row, int firstHead, int number, Part& part) {
  part.clear();
  const float* const places[2] = {placeOf(args, row, firstHead, 0, number),
                                  placeOf(args, row, firstHead, 1, number)};
  part.forEach(args.head, [&](int half, int dimension, float& value) {
    if (places[half] != nullptr) value = places[half][4 + dimension];
  });
#pragma unroll
  for (int half = 0; half < 2; half++) {
    if (places[half] == nullptr) continue;
    part.largest[half] = places[half][0];
    part.sums[half] = places[half][1];
  }
}

/// Divides by the sum, the sink's share included, turns back, and writes.
SLUICE_DEVICE void writeOutput(const AttentionArgs& args, const KeyList& list, int firstHead,
                               Part& part) {
  float totals[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int h = firstHead + laneOf() / 4 + 8 * half;
    const float sink = h < args.heads ? args.sink[h] : 0.0f;
    totals[half] = part.sums[half] + expf(sink - part.largest[half]);
  }
  const int plain = args.head - 2 * args.pairs;
#pragma unroll
  for (int i = 0; i < stepsMax; i++) {
#pragma unroll
    for (int j = 0; j < 8; j += 2) {
      const int dimension =
          16 * (warpOf() + warps * i) + 8 * (j / 4) + 2 * (laneOf() % 4);
      const int half = j % 4 / 2;
      const int h = firstHead + laneOf() / 4 + 8 * half;
      if (dimension >= args.head || h >= args.heads) continue;
      float pair[2] = {part.values[i][j / 4][j % 4] / totals[half],
                       part.values[i][j / 4][j % 4 + 1] / totals[half]};
      if (dimension >= plain) {
        rotatePair(pair, -list.at.position, args.frequencies[(dimension - plain) / 2]);
      }
      float* const out =
          args.output + (int64_t{list.row} * args.heads + h) * args.head + dimension;
      out[0] = pair[0];
      out[1] = pair[1];
    }
  }
}

SLUICE_DEVICE void attend(const AttentionArgs& args, unsigned char* shared) {
  const Room room(shared, args.head);
  const int row = static_cast<int>(blockIdx.z);
  const int firstHead = static_cast<int>(blockIdx.y) * headsOfBlock;
  const KeyList list(args, row);
  const int parts = list.parts();
  Queries queries;
  queries.load(args, row, firstHead);
  Part whole;
  whole.clear();
  bool finishes = true;
  if (args.parts == nullptr) {
    for (int number = 0; number < parts; number++) {
      Part part;
      runPart(args, list, number, queries, room, part);
      joinPart(whole, part);
    }
  } else {
    const int number = static_cast<int>(blockIdx.x);
    if (number < parts) {
      runPart(args, list, number, queries, room, whole);
      storePart(args, row, firstHead, number, whole);
    }
    unsigned* const counter = args.counters + 1 + row * gridDim.y + blockIdx.y;
    finishes = lastToArrive(counter, gridDim.x, room.last);
    if (finishes) {
      whole.clear();
      for (int i = 0; i < parts; i++) {
        Part part;
        loadPart(args, row, firstHead, i, part);
        joinPart(whole, part);
      }
    }
  }
  if (finishes) writeOutput(args, list, firstHead, whole);
  if (lastToArrive(args.counters, gridDim.x * gridDim.y * gridDim.z, room.last)) keepWindow(args);
}

}  // namespace sluice::tiles
