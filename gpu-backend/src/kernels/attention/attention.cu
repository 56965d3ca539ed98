// attention: one softmax over a row's window and its compressed entries (`attention.ts`).
//
// A row's keys are cut into up to sixteen parts by their number alone, each with a maximum and a sum of
// its own, and the parts are put together in ascending order: a row's bits depend on nothing but the row.
// Few rows: parts are blocks of their own, whose last one puts them together; many: one block goes
// through all of them. The very last block stores the step's keys in the window, which until then holds
// what others read.
//
// Keys in fp32: eight heads a block and eight keys at a time in shared memory, all sums in fp32. Compact
// keys, which bfloat16 holds exactly: sixteen of both, on the tensor cores (`tiles.h`).

#include "keys.h"
#include "tiles.h"

namespace sluice {
namespace {

constexpr int threads = attentionThreads;
constexpr int headsOfBlock = 8;
constexpr int keysOfTile = 8;

/// Shared memory of a block.
struct Room {
  int stride;
  float* queries;
  float* keys;
  float* scores;
  float* weights;
  float* largest;
  float* factors;
  int* present;

  SLUICE_DEVICE Room(unsigned char* shared, int head) {
    // Rows of keys eight banks apart.
    stride = (head + 7) / 8 * 8 + 8;
    queries = reinterpret_cast<float*>(shared);
    keys = queries + headsOfBlock * stride;
    scores = keys + keysOfTile * stride;
    weights = scores + headsOfBlock * keysOfTile;
    largest = weights + headsOfBlock * keysOfTile;
    factors = largest + 2 * headsOfBlock;
    present = reinterpret_cast<int*>(factors + headsOfBlock);
  }
};

/// Sixteen threads a key bring a tile in; what is beyond a row, and keys that are not, are zeros.
SLUICE_DEVICE void loadKeys(const AttentionArgs& args, const KeyList& list, int first, int end,
                            const Room& room) {
  const int place = static_cast<int>(threadIdx.x) / 16;
  const int number = first + place;
  const Key key = number < end ? keyAt(args, list, number) : Key{nullptr, nullptr};
  float* const into = room.keys + place * room.stride;
  for (int i = static_cast<int>(threadIdx.x) % 16; i < room.stride; i += 16) {
    float value = 0;
    if (i < args.head && key.own != nullptr) value = key.own[i];
    if (i < args.head && key.cached != nullptr) value = args.layout.at(key.cached, i);
    into[i] = value;
  }
  if (threadIdx.x % 16 == 0) room.present[place] = key.own != nullptr || key.cached != nullptr;
}

/// Two threads a score: even and odd groups of four dimensions.
SLUICE_DEVICE void scoreKeys(const AttentionArgs& args, const Room& room) {
  const int half = static_cast<int>(threadIdx.x) % 2;
  const int key = static_cast<int>(threadIdx.x) / 2 % keysOfTile;
  const int h = static_cast<int>(threadIdx.x) / (2 * keysOfTile);
  const float* const q = room.queries + h * room.stride;
  const float* const k = room.keys + key * room.stride;
  float sum = 0;
  for (int i = 4 * half; i < args.head; i += 8) {
    const float4 a = *reinterpret_cast<const float4*>(q + i);
    const float4 b = *reinterpret_cast<const float4*>(k + i);
    sum += a.x * b.x;
    sum += a.y * b.y;
    sum += a.z * b.z;
    sum += a.w * b.w;
  }
  sum += __shfl_xor_sync(allLanes, sum, 1);
  if (half == 0) {
    room.scores[h * keysOfTile + key] = room.present[key] != 0 ? sum * args.scale : -INFINITY;
  }
}

/// A head's values of one part: this thread's four dimensions, the sum of weights, and the maximum.
struct Part {
  float values[headsOfBlock][4];
  float sums[headsOfBlock];
  float largest[headsOfBlock];

  SLUICE_DEVICE void clear() {
#pragma unroll
    for (int h = 0; h < headsOfBlock; h++) {
#pragma unroll
      for (int i = 0; i < 4; i++) values[h][i] = 0;
      sums[h] = 0;
      largest[h] = -INFINITY;
    }
  }
};

/// Weights of a tile's keys under the maximum so far, and what earlier ones are to be multiplied by.
SLUICE_DEVICE void weighKeys(const Room& room, int turn) {
  const int h = static_cast<int>(threadIdx.x) / keysOfTile;
  const int key = static_cast<int>(threadIdx.x) % keysOfTile;
  if (h >= headsOfBlock) return;
  const float before = room.largest[turn * headsOfBlock + h];
  float largest = before;
  for (int i = 0; i < keysOfTile; i++) largest = fmaxf(largest, room.scores[h * keysOfTile + i]);
  room.weights[h * keysOfTile + key] = expBelow(room.scores[h * keysOfTile + key], largest);
  if (key != 0) return;
  room.factors[h] = expBelow(before, largest);
  room.largest[(1 - turn) * headsOfBlock + h] = largest;
}

/// All keys of part `number` of a row.
SLUICE_DEVICE void runPart(const AttentionArgs& args, const KeyList& list, int number,
                           const Room& room, Part& part) {
  part.clear();
  __syncthreads();
  if (threadIdx.x < headsOfBlock) room.largest[threadIdx.x] = -INFINITY;
  const int end = list.partBegin(number + 1);
  const int dimension = 4 * static_cast<int>(threadIdx.x);
  int turn = 0;
  for (int first = list.partBegin(number); first < end; first += keysOfTile) {
    loadKeys(args, list, first, end, room);
    __syncthreads();
    scoreKeys(args, room);
    __syncthreads();
    weighKeys(room, turn);
    __syncthreads();
    turn = 1 - turn;
    if (dimension < args.head) {
#pragma unroll
      for (int h = 0; h < headsOfBlock; h++) {
        const float factor = room.factors[h];
        part.sums[h] *= factor;
#pragma unroll
        for (int i = 0; i < 4; i++) part.values[h][i] *= factor;
      }
      for (int key = 0; key < keysOfTile; key++) {
        const float4 k =
            *reinterpret_cast<const float4*>(room.keys + key * room.stride + dimension);
#pragma unroll
        for (int h = 0; h < headsOfBlock; h++) {
          const float weight = room.weights[h * keysOfTile + key];
          part.sums[h] += weight;
          part.values[h][0] += weight * k.x;
          part.values[h][1] += weight * k.y;
          part.values[h][2] += weight * k.z;
          part.values[h][3] += weight * k.w;
        }
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int h = 0; h < headsOfBlock; h++) part.largest[h] = room.largest[turn * headsOfBlock + h];
}

SLUICE_DEVICE void joinPart(Part& whole, const Part& part) {
#pragma unroll
  for (int h = 0; h < headsOfBlock; h++) {
    const float largest = fmaxf(whole.largest[h], part.largest[h]);
    const float before = expBelow(whole.largest[h], largest);
    const float after = expBelow(part.largest[h], largest);
    join(whole.sums[h], before, part.sums[h], after);
#pragma unroll
    for (int i = 0; i < 4; i++) join(whole.values[h][i], before, part.values[h][i], after);
    whole.largest[h] = largest;
  }
}

SLUICE_DEVICE void storePart(const AttentionArgs& args, int row, int firstHead, int number,
                             const Part& part) {
  const int dimension = 4 * static_cast<int>(threadIdx.x);
#pragma unroll
  for (int h = 0; h < headsOfBlock; h++) {
    if (firstHead + h >= args.heads || dimension >= args.head) continue;
    float* const into = partAt(args, row, firstHead + h, number);
    for (int i = 0; i < 4; i++) into[4 + dimension + i] = part.values[h][i];
    if (threadIdx.x == 0) {
      into[0] = part.largest[h];
      into[1] = part.sums[h];
    }
  }
}

SLUICE_DEVICE void loadPart(const AttentionArgs& args, int row, int firstHead, int number, Part& part) {
  part.clear();
  const int dimension = 4 * static_cast<int>(threadIdx.x);
#pragma unroll
  for (int h = 0; h < headsOfBlock; h++) {
    if (firstHead + h >= args.heads || dimension >= args.head) continue;
    const float* const from = partAt(args, row, firstHead + h, number);
    for (int i = 0; i < 4; i++) part.values[h][i] = from[4 + dimension + i];
    part.largest[h] = from[0];
    part.sums[h] = from[1];
  }
}

/// Divides by the sum, the sink's share included, turns back, and writes.
SLUICE_DEVICE void writeOutput(const AttentionArgs& args, const KeyList& list, int firstHead,
                               Part& part) {
  const int dimension = 4 * static_cast<int>(threadIdx.x);
  const int plain = args.head - 2 * args.pairs;
#pragma unroll
  for (int h = 0; h < headsOfBlock; h++) {
    if (firstHead + h >= args.heads || dimension >= args.head) continue;
    const float total = part.sums[h] + expf(args.sink[firstHead + h] - part.largest[h]);
    float* const values = part.values[h];
    for (int i = 0; i < 4; i++) values[i] /= total;
    for (int i = 0; i < 4; i += 2) {
      const int pair = (dimension + i - plain) / 2;
      if (dimension + i < plain || pair >= args.pairs) continue;
      rotatePair(values + i, -list.at.position, args.frequencies[pair]);
    }
    float* const out = args.output + (int64_t{list.row} * args.heads + firstHead + h) * args.head;
    for (int i = 0; i < 4 && dimension + i < args.head; i++) out[dimension + i] = values[i];
  }
}

SLUICE_DEVICE void loadQueries(const AttentionArgs& args, int row, int firstHead, const Room& room) {
  for (int i = static_cast<int>(threadIdx.x); i < headsOfBlock * room.stride; i += threads) {
    const int h = firstHead + i / room.stride;
    const int dimension = i % room.stride;
    const bool there = h < args.heads && dimension < args.head;
    room.queries[i] =
        there ? args.queries[(int64_t{row} * args.heads + h) * args.head + dimension] : 0.0f;
  }
}

}  // namespace

SLUICE_KERNEL(attention_rows, AttentionArgs, threads, 2) {
  SLUICE_DYNAMIC_SHARED(shared);
  const Room room(shared, args.head);
  const int row = static_cast<int>(blockIdx.z);
  const int firstHead = static_cast<int>(blockIdx.y) * headsOfBlock;
  const KeyList list(args, row);
  const int parts = list.parts();
  int* const place = room.present + keysOfTile;
  Part whole;
  whole.clear();
  bool finishes = true;
  loadQueries(args, row, firstHead, room);
  if (args.parts == nullptr) {
    for (int number = 0; number < parts; number++) {
      Part part;
      runPart(args, list, number, room, part);
      joinPart(whole, part);
    }
  } else {
    const int number = static_cast<int>(blockIdx.x);
    if (number < parts) {
      runPart(args, list, number, room, whole);
      storePart(args, row, firstHead, number, whole);
    }
    unsigned* const counter = args.counters + 1 + row * gridDim.y + blockIdx.y;
    finishes = lastToArrive(counter, gridDim.x, place);
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
  if (lastToArrive(args.counters, gridDim.x * gridDim.y * gridDim.z, place)) keepWindow(args);
}

/// Compact rows on the tensor cores.
SLUICE_KERNEL(attention_tiles, AttentionArgs, threads, 2) {
  SLUICE_DYNAMIC_SHARED(shared);
  tiles::attend(args, shared);
}

}  // namespace sluice
