// experts for many rows on Hopper: FP4 weights of the routed experts against inputs rounded to FP8.
// `experts.cu` is the twin, which takes every weight everywhere, and sorts places and adds up for both.
//
// A block makes 128 outputs of one expert for all of its places, 48 at a time, whose codes lie sorted by
// expert (`cuda/round-rows.cu`). Weights are the left factor, from registers: a lane reads 32 columns of
// a row, which share a scale, and the four lanes of a row agree on the largest one, so that codes of e4m3
// hold what is left exactly; only what is 2^15 below the row's largest scale can be cut. After every 128
// columns sums leave the tensor cores for fp32, where a row's scale and a place's go in. A place's bits
// depend on no other place.

#include "../cuda/tile-ring.h"
#include "experts.h"

namespace sluice {
namespace {

constexpr int stages = 6;
constexpr int placesOfTile = 48;

struct ExpertsWgmmaArgs {
  /// Codes of what meets the weights, by places as they are sorted, and their scales
  /// `[columns ÷ 128, places]`.
  TensorMap input;
  const float* scales;
  ExpertsArgs experts;
};

#if SLUICE_HOPPER

using Ring = TileRing<stages, placesOfTile * tileBytes>;

/// Powers of two by which e2m1 is larger where its run has the row's largest scale: 6·64 < 448.
constexpr int headroom = 6;

/// e4m3 codes of the magnitudes of e2m1, by their codes, 2^(6 − below) times as large.
struct Magnitudes {
  uint32_t low;
  uint32_t high;

  SLUICE_DEVICE explicit Magnitudes(int below) {
    low = 0x6c686000u - static_cast<uint32_t>(below) * 0x08080800u;
    high = 0x7c787470u - static_cast<uint32_t>(below) * 0x08080808u;
    // 0.5·2^(6 − 11) is the last one that all have as normal numbers.
    if (below > 11) {
      const float scale =
          below < 127 + headroom ? __uint_as_float(uint32_t(127 + headroom - below) << 23) : 0.0f;
      low = 0;
      high = 0;
#pragma unroll
      for (uint32_t code = 1; code < 8; code++) {
        const uint32_t found = codeOfE4m3(roundE4m3(fromE2m1(code) * scale));
        if (code < 4) low |= found << (8 * code);
        else high |= found << (8 * (code - 4));
      }
    }
  }

  /// Of four codes of e2m1 in the lower half of `codes`.
  SLUICE_DEVICE uint32_t of(uint32_t codes) const {
    const uint32_t signs = __byte_perm(0x00008000u, 0, codes >> 3 & 0x1111u);
    return __byte_perm(low, high, codes & 0x7777u) | signs;
  }
};

/// 128 columns of two rows of a weight, a quarter of them this lane's.
struct WeightRows {
  uint4 raw[2];
  uint32_t scale[2];

  SLUICE_DEVICE void load(const Matrix& matrix, int row, int unit) {
    const int column = unit * unitColumns + laneOf() % 4 * fp4Run;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int at = row + 8 * half;
      raw[half] = loadLane<DType::fp4>(matrix, matrix.aligned(), at, column);
      scale[half] = at < matrix.rows ? matrix.scale[int64_t{at} * matrix.scaleStride() +
                                                    column / fp4Run]
                                     : 0;
    }
  }

  /// As factors of four products, and what each row is multiplied by.
  SLUICE_DEVICE void decode(uint32_t (&a)[4][4], float (&rowScale)[2]) const {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const uint4& words = raw[half];
      const bool some = ((words.x | words.y | words.z | words.w) & 0x77777777u) != 0;
      uint32_t largest = some ? scale[half] : 0;
#pragma unroll
      for (int distance = 1; distance <= 2; distance *= 2) {
        const uint32_t other = __shfl_xor_sync(allLanes, largest, distance);
        largest = other > largest ? other : largest;
      }
      const Magnitudes codes(some ? static_cast<int>(largest - scale[half]) : 0);
      rowScale[half] = fromE8m0(largest) * (1.0f / (1 << headroom));
#pragma unroll
      for (int step = 0; step < 4; step++) {
        const uint32_t word = wordOf(words, step);
        a[step][half] = codes.of(word);
        a[step][half + 2] = codes.of(word >> 16);
      }
    }
  }
};

/// Places of this block's expert, as they are sorted.
struct Places {
  int first;
  int count;
  int all;

  SLUICE_DEVICE int tiles() const { return (count + placesOfTile - 1) / placesOfTile; }
};

SLUICE_DEVICE Places placesOf(const ExpertsArgs& args) {
  const int expert = static_cast<int>(blockIdx.y);
  const int first = args.firstPlace[expert];
  return {first, args.firstPlace[expert + 1] - first, args.places()};
}

/// Adds a unit of 48 places to the totals of `count` weights, one after the other: there are not registers
/// enough for the sums of two beside their totals. `loadNext(i)` asks for a weight's next rows.
template <int count, class LoadNext>
SLUICE_DEVICE void addUnit(const WeightRows (&weights)[count], LoadNext loadNext, const Ring& ring,
                           int step, const float (&placeScales)[12], float (&totals)[count][24]) {
  const uint64_t b = tileDescriptor(ring.tiles(step));
  ring.take(step);
#pragma unroll
  for (int i = 0; i < count; i++) {
    uint32_t a[4][4];
    float rowScales[2];
    weights[i].decode(a, rowScales);
    loadNext(i);
    float sums[24];
    fenceProducts(a);
#pragma unroll
    for (int k = 0; k < 4; k++) beginProduct(sums, a[k], b + 2 * k, k > 0);
    commitProducts();
    awaitProducts(sums);
#pragma unroll
    for (int c = 0; c < 24; c++) {
      totals[i][c] += sums[c] * (rowScales[c / 2 % 2] * placeScales[c / 4 * 2 + c % 2]);
    }
  }
  ring.release(step);
}

/// Scales of the twelve places of a tile whose sums this lane holds.
SLUICE_DEVICE void scalesOf(float (&into)[12], const float* scales, int first, int last) {
#pragma unroll
  for (int i = 0; i < 12; i++) {
    const int place = first + i / 2 * 8 + laneOf() % 4 * 2 + i % 2;
    into[i] = place < last ? scales[place] : 0;
  }
}

/// Products of this block's outputs with all places of its expert; calls `store(output, place, sums)`.
template <int count, class Store>
SLUICE_DEVICE void multiplyPlaces(const ExpertsWgmmaArgs& args, const Matrix (&matrices)[count],
                                  unsigned char* shared, Store store) {
  const Places places = placesOf(args.experts);
  const int units = matrices[0].width / unitColumns;
  const Ring ring = {firstTile(shared)};
  ring.begin();
  if (warpOf() == takingWarps) {
    if (laneOf() != 0) return;
    ring.fill(places.tiles() * units, [&](int step, uint32_t into, PhaseBarrier barrier) {
      copyTile(into, args.input, step % units * tileBytes,
               places.first + step / units * placesOfTile, barrier);
    });
    return;
  }
  const int row = static_cast<int>(blockIdx.x) * tileRows + 16 * warpOf() + laneOf() / 4;
  for (int tile = 0; tile < places.tiles(); tile++) {
    const int first = places.first + tile * placesOfTile;
    const int last = places.first + places.count;
    float totals[count][24] = {};
    WeightRows weights[count];
#pragma unroll
    for (int i = 0; i < count; i++) weights[i].load(matrices[i], row, 0);
    for (int unit = 0; unit < units; unit++) {
      float placeScales[12];
      scalesOf(placeScales, args.scales + int64_t{unit} * places.all, first, last);
      const auto loadNext = [&](int i) {
        if (unit + 1 < units) weights[i].load(matrices[i], row, unit + 1);
      };
      addUnit(weights, loadNext, ring, tile * units + unit, placeScales, totals);
    }
#pragma unroll
    for (int c = 0; c < 24; c++) {
      const int output = row + c / 2 % 2 * 8;
      const int place = first + c / 4 * 8 + laneOf() % 4 * 2 + c % 2;
      if (output >= matrices[0].rows || place >= last) continue;
      float sums[count];
#pragma unroll
      for (int i = 0; i < count; i++) sums[i] = totals[i][c];
      store(output, args.experts.sorted[place], sums);
    }
  }
}

#endif

}  // namespace

SLUICE_KERNEL(experts_up_wgmma, ExpertsWgmmaArgs, 288, 1) {
#if SLUICE_HOPPER
  SLUICE_DYNAMIC_SHARED(shared);
  const int expert = static_cast<int>(blockIdx.y);
  const Projections& routed = args.experts.routed;
  const Matrix matrices[2] = {routed.gate.at(expert), routed.up.at(expert)};
  multiplyPlaces(args, matrices, shared, [&](int output, int place, const float (&sums)[2]) {
    storeInner(args.experts, place, output, sums[0], sums[1]);
  });
#endif
}

SLUICE_KERNEL(experts_down_wgmma, ExpertsWgmmaArgs, 288, 1) {
#if SLUICE_HOPPER
  SLUICE_DYNAMIC_SHARED(shared);
  const Matrix matrices[1] = {args.experts.routed.down.at(static_cast<int>(blockIdx.y))};
  multiplyPlaces(args, matrices, shared, [&](int output, int place, const float (&sums)[1]) {
    args.experts.resultOf(place)[output] = sums[0];
  });
#endif
}

}  // namespace sluice
