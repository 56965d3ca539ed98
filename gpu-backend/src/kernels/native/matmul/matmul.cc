#include "matmul.h"

#include <algorithm>
#include <cstring>

#include "../lines.h"

namespace sluice {
namespace {

/// 64 rows of 4096 FP4 weights are 128 KiB: 4 µs, long against taking a chunk, short against a slice.
constexpr int64_t chunkRows = 64;
/// Input rows of one chunk: at most 128, and no more than fit into a second-level cache beside the
/// chunk's weights.
constexpr int64_t chunkTilesMax = 8;
constexpr int64_t chunkInputBytes = 512 << 10;

int64_t ceilDiv(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }

/// A product's chunks: `tileChunks` of `tilesEach` tiles for each 64 weight rows, from `first` on.
struct Chunks {
  int64_t first;
  int64_t tilesEach;
  int64_t tileChunks;
};

int64_t tileBytes(const Inputs& inputs) {
  const int64_t values = inputs.panelWidth * tileRowsMax;
  switch (inputs.kind) {
    case InputKind::limbs1:
      return values + values / 4;
    case InputKind::limbs3:
      return limbsMax * values + values / 4;
    case InputKind::floats:
      return 4 * values;
    case InputKind::pairs:
      return 2 * values;
  }
  return values;
}

Chunks chunksOf(const Product& product, int64_t first) {
  const int64_t fitting = chunkInputBytes / tileBytes(*product.inputs);
  const int64_t tilesEach = std::clamp<int64_t>(fitting, 1, chunkTilesMax);
  return {first, tilesEach, ceilDiv(product.inputs->tileCount, tilesEach)};
}

PanelKernel kernelOf(const KernelSet& set, InputKind kind) {
  switch (kind) {
    case InputKind::limbs1:
      return set.limbs1;
    case InputKind::limbs3:
      return set.limbs3;
    case InputKind::floats:
      return set.floats;
    case InputKind::pairs:
      return set.pairs;
  }
  return nullptr;
}

void store(const Product& product, int64_t inputRow, int64_t weightRow, int64_t rows,
           const float* sums) {
  const int64_t count = std::min<int64_t>(panelRows, product.weight.rows - weightRow);
  for (int64_t m = 0; m < rows; m++) {
    float* into = product.output + (inputRow + m) * product.outputStride + weightRow;
    if (count == panelRows) {
      // A size known beforehand is one vector's store.
      std::memcpy(into, sums + m * panelRows, panelRows * sizeof(float));
    } else {
      std::copy_n(sums + m * panelRows, count, into);
    }
  }
}

/// Lines that `store` will write, asked for while the kernel computes what goes there.
void ownOutput(const Product& product, int64_t inputRow, int64_t weightRow, int64_t rows) {
  for (int64_t m = 0; m < rows; m++) {
    ownLines(product.output + (inputRow + m) * product.outputStride + weightRow, 1);
  }
}

struct Workspace {
  float* sums;
  uint8_t* panel;
};

/// Chunk `index` of one product.
void runChunk(const KernelSet& kernels, const Product& product, const Chunks& chunks, int64_t index,
              const Workspace& space) {
  const Inputs& inputs = *product.inputs;
  const PanelKernel kernel = kernelOf(kernels, inputs.kind);
  const int64_t rowChunk = index / chunks.tileChunks;
  const int64_t firstTile = index % chunks.tileChunks * chunks.tilesEach;
  const int64_t tiles = std::min(chunks.tilesEach, inputs.tileCount - firstTile);
  const int64_t firstInput = firstTile * tileRowsMax;
  const int64_t inputRows = std::min(inputs.rows - firstInput, tiles * tileRowsMax);
  const int64_t end = std::min(product.weight.rows, (rowChunk + 1) * chunkRows);
  for (int64_t row = rowChunk * chunkRows; row < end; row += panelRows) {
    const Panel panel = panelAt(product.weight, row, space.panel);
    ownOutput(product, firstInput, row, inputRows);
    kernel(panel, inputs.tiles + firstTile, static_cast<int>(tiles), space.sums);
    store(product, firstInput, row, inputRows, space.sums);
  }
}

}  // namespace

void runProducts(Context& context, std::span<const Product> products) {
  const int64_t count = static_cast<int64_t>(products.size());
  Chunks* chunks = context.scratch.take<Chunks>(count);
  int64_t total = 0;
  int64_t panelBytes = 0;
  for (int64_t i = 0; i < count; i++) {
    chunks[i] = chunksOf(products[i], total);
    total += ceilDiv(products[i].weight.rows, chunkRows) * chunks[i].tileChunks;
    panelBytes = std::max(panelBytes, panelBytesMax(products[i].weight));
  }
  const int threads = context.pool.threads();
  const int64_t sumsEach = chunkTilesMax * tileRowsMax * panelRows;
  float* sums = context.scratch.take<float>(sumsEach * threads);
  uint8_t* panels = context.scratch.take<uint8_t>(panelBytes * threads);
  const KernelSet kernels = kernelsFor(context.isa);
  context.pool.parallelFor(total, [&](int64_t chunk, int worker) {
    const auto behind = std::upper_bound(chunks, chunks + count, chunk,
                                         [](int64_t at, const Chunks& c) { return at < c.first; });
    const Chunks& mine = behind[-1];
    const Workspace space{sums + worker * sumsEach, panels + worker * panelBytes};
    runChunk(kernels, products[&mine - chunks], mine, chunk - mine.first, space);
  });
}

}  // namespace sluice
