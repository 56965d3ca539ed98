// index-select: the topK visible entries that score highest, I_j = Σ_h weight·scale·max(0, q_h·K_j)
// (`index-select.ts`).
//
// Items of up to sixteen rows of one sequence and 64 keys are scored by whoever is free, then each
// row's scores are picked from. A score depends on its row and its key alone: on neither the chunk
// nor the batch they are in.
//
// Error, u = 2^-24: a dot product of fp32 by runs of 128 fused steps, (128 + d ÷ 128)·u·Σ|q·k|; of
// whole numbers none but that of adding d ÷ 32 exact runs. Each head's weight and product 2u, adding
// heads (heads ÷ 16 + 4)·u of the terms. Scores that are nearer than that may change places; equal
// ones of equal keys never do.
//
// Ladder, one thread of Zen 4, 16 heads of 128 × 64 keys:
//   fp32, heads as lanes                                                   54 GMAC/s
//   FP4 values as bytes, vpdpbusd                                         147
//   writing a key's values down as bytes: the compiler's vectors 57 ns, by hand 27; from codes 7
//   weights and ReLU of 64 heads with a choice between floats 1.8 µs; with maxima 0.34
//   topK of 262,144 scores, bit by bit 0.33 ms; of 2,048 2.6 µs
// Flash, 64 heads of 128, top 512, one thread: decode over 2,048 entries 0.15 ms, 16,384 1.3 ms,
// 262,144 (a million tokens) 21.6 ms from compact rows, 25 from fp32 rows, 56 of unrounded values;
// 256 rows over 2,048 entries 33, 39 and 89 ms; AVX2, always fp32, 57 ms a million and 101.

#include <algorithm>
#include <vector>

#include "../native/batch.h"
#include "../native/compact-rows.h"
#include "../native/op.h"
#include "../native/query-dots.h"
#include "narrow.h"
#include "pick-largest.h"
#include "weigh.h"

namespace sluice {
namespace {

/// Rows of one sequence that score a chunk of keys together; with 64 heads about 60 µs of work.
constexpr int64_t rowsEach = 16;
/// Scores, and rows, that are kept at a time: 64 MiB, and 16 MiB of queries.
constexpr int64_t scoresMax = int64_t{16} << 20;
constexpr int64_t rowsMax = 512;

struct Inputs {
  BatchRows rows;
  const float* queries;
  const float* weights;
  float scale;
  EntryPages entries;
  int64_t ratio;
  int32_t* selected;
  int64_t heads;
  int64_t width;
  int64_t topK;
  /// Whether entries are compact rows.
  bool compact;

  CompactLayout layout() const { return CompactLayout::indexKey(width); }
  int64_t groups() const { return (heads + queryGroup - 1) / queryGroup; }
  int64_t visible(int64_t row) const { return visibleEntries(rows[row].position, ratio); }
};

/// A row whose entries have to be scored, and where its scores go.
struct ScoredRow {
  int64_t row;
  int64_t visible;
  uint32_t* scores;
  /// Whether `queries` holds them as whole numbers; else it holds fp32 `[groups][width][16]`.
  bool narrow;
  float* queries;
  /// `[groups][16]`, zeros behind the last head.
  float* weights;
};

/// Neighbouring scored rows of one sequence, and some of the keys that the last of them sees.
struct Item {
  int64_t firstRow;
  int64_t rowCount;
  int64_t firstKey;
  int64_t keyCount;
};

/// One thread's memory for an item.
struct Workspace {
  NarrowKeys narrow;
  /// Keys of compact rows in fp32 `[chunkKeys][width]`.
  float* decoded;
  float* queries;
  float* dots;
  float* narrowDots;
};

/// The keys of an item: where they lie, and which of them are narrow.
struct KeyChunk {
  int64_t count;
  const std::byte* rows[chunkKeys];
  bool narrow[chunkKeys];
  bool anyNarrow;
  /// How many are narrow before the first that is not.
  int64_t leading;
  /// In fp32; of compact rows only once something asks for it.
  const float* values[chunkKeys];
  bool hasValues;
};

class Selection {
 public:
  Selection(Context& context, const Inputs& in)
      : context_(context),
        in_(in),
        floatDots_(queryDots(context.isa)),
        narrow_(narrowKernels(context.isa)),
        codec_(compactCodec(context.isa)),
        weigh_(weighMatches(context.isa)),
        pick_(pickLargest(context.isa)) {}

  void run() {
    rows_ = context_.scratch.take<ScoredRow>(in_.rows.count());
    int64_t count = 0;
    int64_t total = 0;
    int64_t most = 0;
    for (int64_t row = 0; row < in_.rows.count(); row++) {
      const int64_t visible = in_.visible(row);
      if (visible <= in_.topK) {
        takeAll(row, visible);
        continue;
      }
      in_.entries.check(in_.rows[row].slot, visible);
      rows_[count++] = {row, visible, nullptr, false, nullptr, nullptr};
      total += visible;
      most = std::max(most, visible);
    }
    if (count == 0) return;
    const int64_t scoresKept = std::max(most, std::min(total, scoresMax));
    scores_ = context_.scratch.take<uint32_t>(scoresKept);
    queries_ = context_.scratch.take<float>(queryFloats() * std::min(count, rowsMax));
    takeWorkspaces();
    for (int64_t first = 0; first < count;) {
      const int64_t end = placeRows(first, count, scoresKept);
      selectRows(first, end);
      first = end;
    }
  }

 private:
  int64_t queryFloats() const { return in_.groups() * queryGroup * (in_.width + 1); }

  void takeWorkspaces() {
    const int64_t threads = context_.pool.threads();
    const int64_t runs = in_.width / narrowRun;
    const int64_t dots = in_.groups() * chunkKeys * queryGroup;
    Scratch& scratch = context_.scratch;
    workspaces_ = scratch.take<Workspace>(threads);
    for (int64_t i = 0; i < threads; i++) {
      workspaces_[i] = {
          {scratch.take<uint8_t>(chunkKeys * in_.width), scratch.take<float>(chunkKeys * runs)},
          scratch.take<float>(chunkKeys * in_.width),
          scratch.take<float>(in_.width * queryGroup),
          scratch.take<float>(dots),
          scratch.take<float>(dots)};
    }
  }

  void takeAll(int64_t row, int64_t visible) const {
    int32_t* picks = in_.selected + row * in_.topK;
    for (int64_t i = 0; i < in_.topK; i++) picks[i] = i < visible ? static_cast<int32_t>(i) : -1;
  }

  /// Gives rows from `first` on their memory, as many as it is enough for.
  int64_t placeRows(int64_t first, int64_t count, int64_t scoresKept) {
    uint32_t* scores = scores_;
    int64_t at = first;
    while (at < count && at - first < rowsMax &&
           scores + rows_[at].visible <= scores_ + scoresKept) {
      float* queries = queries_ + (at - first) * queryFloats();
      rows_[at].scores = scores;
      rows_[at].queries = queries;
      rows_[at].weights = queries + in_.groups() * queryGroup * in_.width;
      scores += rows_[at].visible;
      at++;
    }
    return at;
  }

  void selectRows(int64_t first, int64_t end) {
    context_.pool.parallelFor(end - first, [&](int64_t i, int) { prepare(rows_[first + i]); });
    listItems(first, end);
    context_.pool.parallelFor(static_cast<int64_t>(items_.size()), [&](int64_t i, int worker) {
      score(items_[i], workspaces_[worker]);
    });
    context_.pool.parallelFor(end - first, [&](int64_t i, int) {
      const ScoredRow& row = rows_[first + i];
      pick_(row.scores, row.visible, in_.topK, in_.selected + row.row * in_.topK);
    });
  }

  const float* headsOf(const ScoredRow& row, int64_t group) const {
    return in_.queries + (row.row * in_.heads + group * queryGroup) * in_.width;
  }

  int64_t headCount(int64_t group) const {
    return std::min<int64_t>(queryGroup, in_.heads - group * queryGroup);
  }

  NarrowQueries narrowOf(const ScoredRow& row, int64_t group) const {
    const int64_t words = queryGroup * in_.width / 4;
    const int64_t runs = queryGroup * in_.width / narrowRun;
    float* at = row.queries + group * (words + 2 * runs);
    float* units = at + words;
    return {reinterpret_cast<int8_t*>(at), units, reinterpret_cast<int32_t*>(units + runs)};
  }

  void prepare(ScoredRow& row) const {
    for (int64_t i = 0; i < in_.groups() * queryGroup; i++) {
      const bool given = i < in_.heads;
      row.weights[i] = given ? in_.weights[row.row * in_.heads + i] * in_.scale : 0.0f;
    }
    row.narrow = narrow_ != nullptr;
    for (int64_t g = 0; row.narrow && g < in_.groups(); g++) {
      row.narrow = narrow_->queries(headsOf(row, g), headCount(g), in_.width, narrowOf(row, g));
    }
    for (int64_t g = 0; !row.narrow && g < in_.groups(); g++) {
      float* into = row.queries + g * queryGroup * in_.width;
      interleaveQueries(headsOf(row, g), headCount(g), in_.width, in_.width, into);
    }
  }

  void listItems(int64_t first, int64_t end) {
    items_.clear();
    while (first < end) {
      const int32_t slot = in_.rows[rows_[first].row].slot;
      int64_t after = first;
      int64_t keys = 0;
      while (after < end && after - first < rowsEach && in_.rows[rows_[after].row].slot == slot) {
        keys = std::max(keys, rows_[after++].visible);
      }
      for (int64_t key = 0; key < keys; key += chunkKeys) {
        items_.push_back({first, after - first, key, std::min(chunkKeys, keys - key)});
      }
      first = after;
    }
  }

  void score(const Item& item, const Workspace& space) const {
    KeyChunk keys;
    readKeys(item, space, keys);
    for (int64_t i = 0; i < item.rowCount; i++) {
      const ScoredRow& row = rows_[item.firstRow + i];
      const int64_t count = std::min(item.keyCount, row.visible - item.firstKey);
      if (count <= 0) continue;
      for (int64_t g = 0; g < in_.groups(); g++) matchGroup(row, g, keys, count, space);
      weigh_(space.dots, row.weights, in_.groups(), count, row.scores + item.firstKey);
    }
  }

  void readKeys(const Item& item, const Workspace& space, KeyChunk& keys) const {
    const int32_t slot = in_.rows[rows_[item.firstRow].row].slot;
    keys.count = item.keyCount;
    for (int64_t j = 0; j < keys.count; j++) {
      keys.rows[j] = in_.entries.row(slot, item.firstKey + j);
    }
    keys.hasValues = false;
    keys.anyNarrow = false;
    keys.leading = keys.count;
    for (int64_t j = 0; narrow_ != nullptr && j < keys.count; j++) {
      keys.narrow[j] = readNarrow(keys.rows[j], space, j);
      keys.anyNarrow |= keys.narrow[j];
      if (!keys.narrow[j]) keys.leading = std::min(keys.leading, j);
    }
  }

  bool readNarrow(const std::byte* row, const Workspace& space, int64_t index) const {
    if (!in_.compact) {
      return narrow_->key(reinterpret_cast<const float*>(row), in_.width, space.narrow, index);
    }
    const auto* bytes = reinterpret_cast<const uint8_t*>(row);
    if (narrow_->compactKey(bytes, in_.width, space.narrow, index)) return true;
    codec_.decode(in_.layout(), bytes, space.decoded);
    return narrow_->key(space.decoded, in_.width, space.narrow, index);
  }

  void readValues(KeyChunk& keys, const Workspace& space) const {
    if (keys.hasValues) return;
    keys.hasValues = true;
    for (int64_t j = 0; j < keys.count; j++) {
      keys.values[j] = reinterpret_cast<const float*>(keys.rows[j]);
      if (!in_.compact) continue;
      float* decoded = space.decoded + j * in_.width;
      codec_.decode(in_.layout(), reinterpret_cast<const uint8_t*>(keys.rows[j]), decoded);
      keys.values[j] = decoded;
    }
  }

  /// Dots of sixteen heads with the first `count` keys of a chunk, each in the form that its own
  /// values and the row's allow: what is beside it in the chunk makes no difference.
  void matchGroup(const ScoredRow& row, int64_t group, KeyChunk& keys, int64_t count,
                  const Workspace& space) const {
    float* dots = space.dots + group * chunkKeys * queryGroup;
    if (row.narrow && keys.leading >= count) {
      narrow_->dots(narrowOf(row, group), in_.width, space.narrow, count, dots);
      return;
    }
    const float* queries = row.queries + group * queryGroup * in_.width;
    if (row.narrow) {
      interleaveQueries(headsOf(row, group), headCount(group), in_.width, in_.width,
                        space.queries);
      queries = space.queries;
    }
    readValues(keys, space);
    floatDots_(queries, in_.width, keys.values, count, dots);
    if (!row.narrow || !keys.anyNarrow) return;
    narrow_->dots(narrowOf(row, group), in_.width, space.narrow, count, space.narrowDots);
    for (int64_t j = 0; j < count; j++) {
      if (!keys.narrow[j]) continue;
      std::copy_n(space.narrowDots + j * queryGroup, queryGroup, dots + j * queryGroup);
    }
  }

  Context& context_;
  const Inputs& in_;
  QueryDots floatDots_;
  const NarrowKernels* narrow_;
  CompactCodec codec_;
  WeighMatches weigh_;
  decltype(pickLargest(Isa::portable)) pick_;
  ScoredRow* rows_ = nullptr;
  uint32_t* scores_ = nullptr;
  float* queries_ = nullptr;
  Workspace* workspaces_ = nullptr;
  std::vector<Item> items_;
};

void indexSelect(Context& context, Args& args) {
  const Tensor queries = args.tensor(DType::f32, 3);
  const Tensor weights = args.tensor(DType::f32, 2);
  const double scale = args.number();
  const Tensor entries = args.tensor();
  const BatchRows rows(args.tensor(DType::i32, 2));
  const Tensor pages = args.tensor(DType::i32, 2);
  const int64_t ratio = args.integer();
  const Tensor selected = args.tensor(DType::i32, 2);
  args.finish();
  rows.check(pages.shape[0]);
  const Inputs in{rows,
                  queries.as<const float>(),
                  weights.as<const float>(),
                  static_cast<float>(scale),
                  EntryPages(entries, pages),
                  ratio,
                  selected.as<int32_t>(),
                  queries.shape[1],
                  queries.shape[2],
                  selected.shape[1],
                  holdsCompactRows(entries, CompactLayout::indexKey(queries.shape[2]))};
  Selection(context, in).run();
}

const RegisterOp registered("index-select", indexSelect);

}  // namespace
}  // namespace sluice
