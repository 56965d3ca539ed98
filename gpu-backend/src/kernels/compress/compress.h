#pragma once

#include "../cuda/batch.h"
#include "../cuda/compact-rows.h"
#include "../cuda/transforms.h"
#include "../cuda/values.h"

// compress: a block's raw rows pooled into one cache entry, and the rows a later block needs into the
// rings (`compress.ts`). A block of threads a row; of rows that complete nothing it only counts. The
// last one to finish writes the rings, which until then hold what others still read.

namespace sluice {

struct CompressArgs {
  const float* values;
  const float* scores;
  const float* ape;
  Values norm;
  const float* frequencies;
  const BatchRow* rows;
  EntryPages entries;
  Ring valueRing;
  Ring scoreRing;
  unsigned* counter;
  RowLayout layout;
  int rowCount;
  int width;
  int pairs;
  int ratio;
  int span;
  int quantise;
  float eps;

  SLUICE_DEVICE int channels() const { return span * width; }
};

/// Where the raw row of an earlier or the same position lies: in the step, or in the ring.
SLUICE_DEVICE const float* rawRow(const float* batch, const Ring& ring, int row, const BatchRow& at,
                                  int position, int channels) {
  if (position >= at.start) return batch + int64_t{row - (at.position - position)} * channels;
  return reinterpret_cast<const float*>(ring.row(at.slot, position));
}

/// Channel `c` of the entry that the row completes.
SLUICE_DEVICE float poolChannel(const CompressArgs& args, int row, const BatchRow& at, int c) {
  const int pooled = args.span * args.ratio;
  const int channels = args.channels();
  const int first = at.position - pooled + 1;
  float largest = -INFINITY;
  float weights = 0;
  float sum = 0;
  for (int pass = 0; pass < 2; pass++) {
    // The first block has none before it: those rows weigh nothing.
    for (int i = first < 0 ? -first : 0; i < pooled; i++) {
      const int position = first + i;
      const int channel = (i < args.ratio ? 0 : args.width) + c;
      const float* const scores =
          rawRow(args.scores, args.scoreRing, row, at, position, channels);
      const float score = scores[channel] + args.ape[position % args.ratio * channels + channel];
      if (pass == 0) {
        largest = fmaxf(largest, score);
        continue;
      }
      const float weight = expf(score - largest);
      weights += weight;
      sum += weight * rawRow(args.values, args.valueRing, row, at, position, channels)[channel];
    }
  }
  return sum / weights;
}

/// Norm, rotation, transform and rounding of the pooled values, and the entry into its page.
SLUICE_DEVICE void finishEntry(const CompressArgs& args, const BatchRow& at, float* entry,
                               float squares) {
  const float inverse = 1.0f / sqrtf(squares / static_cast<float>(args.width) + args.eps);
  for (int i = static_cast<int>(threadIdx.x); i < args.width; i += static_cast<int>(blockDim.x)) {
    entry[i] = entry[i] * inverse * args.norm[i];
  }
  __syncthreads();
  if (warpOf() != 0) return;
  rotateRow(entry, args.width, args.frequencies, args.pairs, at.position + 1 - args.ratio);
  __syncwarp();
  if (args.layout.index != 0) walshHadamard(entry, args.width);
  __syncwarp();
  if (args.quantise != 0 && args.layout.index != 0) roundIndexKey(entry, args.width);
  if (args.quantise != 0 && args.layout.index == 0) roundKey(entry, args.layout.plain);
  __syncwarp();
  uint8_t* const into = args.entries.row(at.slot, visibleEntries(at.position, args.ratio) - 1);
  if (into != nullptr) args.layout.write(into, entry);
}

SLUICE_DEVICE void keepRows(const CompressArgs& args) {
  const int channels = args.channels();
  for (int row = 0; row < args.rowCount; row++) {
    const BatchRow at = args.rows[row];
    if (args.valueRing.overwritten(at)) continue;
    float* const values = reinterpret_cast<float*>(args.valueRing.row(at.slot, at.position));
    float* const scores = reinterpret_cast<float*>(args.scoreRing.row(at.slot, at.position));
    for (int i = static_cast<int>(threadIdx.x); i < channels; i += static_cast<int>(blockDim.x)) {
      values[i] = args.values[int64_t{row} * channels + i];
      scores[i] = args.scores[int64_t{row} * channels + i];
    }
  }
}

/// `row`: the block's. Every block of the task comes.
SLUICE_DEVICE void compressRow(const CompressArgs& args, int row, unsigned char* shared) {
  float* const room = reinterpret_cast<float*>(shared);
  float* const entry = room + 32;
  const BatchRow at = args.rows[row];
  if ((at.position + 1) % args.ratio == 0) {
    float squares = 0;
    for (int c = static_cast<int>(threadIdx.x); c < args.width; c += static_cast<int>(blockDim.x)) {
      entry[c] = poolChannel(args, row, at, c);
      squares += entry[c] * entry[c];
    }
    finishEntry(args, at, entry, blockSum(squares, room));
  }
  if (lastToArrive(args.counter, args.rowCount, reinterpret_cast<int*>(room))) keepRows(args);
}

}  // namespace sluice
