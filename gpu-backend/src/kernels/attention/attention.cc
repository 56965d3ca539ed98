// attention: one softmax over a row's window and its compressed entries, the keys being the values
// (`attention.ts`).
//
// Sixteen heads of one row are the lanes of a vector and go through the row's keys together, 128
// keys at a time. A block's weights are relative to its own largest score; blocks are then brought to
// a common largest one after the other, beginning with the sink. The order of every sum depends on
// the row's keys alone, so neither other rows nor threads change a bit: whether one thread does all
// blocks of a row or many do one each is only a matter of who is free.
//
// Error, u = 2^-24, n keys in b = n ÷ 128 blocks, width d. A score: chains of 128 fused steps and
// the additions of d ÷ 128 chains, (128 + d ÷ 128)·u·scale·Σ|q·k|, and 2u·|s| for scaling. With
// u·|s − M| for the subtraction and 2^-23 for exp that is ρ, a weight's relative error, to which each
// later block that holds a larger score adds 4u. Sums of weights and of values add (128 + 2b)·u of
// their positive terms, the division u:
//   |Δo| ≤ Σ p·ρ·|K| + |o|·Σ p·ρ + (256 + 4b + 2)·u·Σ p·|K|
// At worst; of random signs the square roots, so about 1e-6 of |K|. Without fused instructions each
// step rounds twice.
//
// Ladder, one thread of Zen 4 (one 512-bit multiply-add a cycle: 112 to 118 GFLOP/s), 16 heads × 128
// keys of 512 in the second-level cache, best of many short runs on a machine with other work:
//   scores: heads as lanes, keys read value by value where they lie    108 GFLOP/s, AVX2 100
//   values: 8 heads × 32 columns, or 16 × 16, of rows where they lie   116, AVX2 (4 × 16) 100
//           columns gathered side by side first: stores for nothing     82, AVX2 84
//   exp of 2,048 scores with a choice between floats 11.4 µs in AVX2; with a mask, vectorised, 2.7
//   next keys fetched while these are multiplied: 4 to 12 % of 8,320 keys (17 MB), nothing of 640
// Flash, CPU time of one thread: decode 0.17 ms over 128 keys, 0.79 over 640, 10.4 over 8,320 (a
// million tokens, ratio 128), which is 99 to 105 GFLOP/s; 256 rows 51, 212 and (192 keys) 69 ms, 84
// to 101. AVX2: 0.21, 0.92, 11.6; 59, 284 and 105 ms.

#include <algorithm>
#include <atomic>
#include <cstring>
#include <optional>

#include "../native/batch.h"
#include "../native/compact-rows.h"
#include "../native/op.h"
#include "../native/query-dots.h"
#include "../native/rotation.h"
#include "softmax.h"
#include "weighted-values.h"

namespace sluice {
namespace {

/// Blocks are spread over threads where there are fewer rows than this for each.
constexpr int64_t rowsPerThread = 4;
constexpr int64_t chunksPerThread = 4;
/// And only while what they leave fits into this.
constexpr int64_t partialBytesMax = int64_t{64} << 20;
constexpr int64_t rowsEach = 8;

SLUICE_INLINE void finishBody(const Partial& all, int64_t heads, int64_t width,
                              const double* angles, int64_t pairs, float* output) {
  for (int64_t h = 0; h < heads; h++) {
    const float* sums = all.sums + h * all.stride;
    float* out = output + h * width;
    for (int64_t d = 0; d < width; d++) out[d] = sums[d] / all.weights[h];
    rotatePairs(out + width - 2 * pairs, angles, pairs, true);
  }
}

SLUICE_PER_ISA(finish, finishBody,
               (const Partial& all, int64_t heads, int64_t width, const double* angles,
                int64_t pairs, float* output),
               (all, heads, width, angles, pairs, output))

/// The keys of one row: its window in ascending position, then its entries in ascending order.
struct RowKeys {
  int64_t firstPosition;
  int64_t windowCount;
  int64_t entryCount;
  /// Null: entry i is number i.
  const int32_t* picks;

  int64_t count() const { return windowCount + entryCount; }
  int64_t blocks() const { return (count() + blockKeys - 1) / blockKeys; }
};

struct Inputs {
  BatchRows rows;
  Tensor queries;
  const float* own;
  Ring window;
  int64_t windowSize;
  const EntryPages* entries;
  int64_t ratio;
  /// −1 where there is none; rank 0: every visible entry.
  Tensor selected;
  const float* sink;
  float scale;
  float* output;
  /// Whether window and entries are compact rows, and the step's own keys as such; null if not.
  bool compact;
  CompactLayout layout;
  CompactCodec codec;
  const uint8_t* ownRows;

  int64_t heads() const { return queries.shape[1]; }
  int64_t width() const { return queries.shape[2]; }
  int64_t stride() const { return (width() + strideUnit - 1) / strideUnit * strideUnit; }
  int64_t groups() const { return (heads() + queryGroup - 1) / queryGroup; }
};

/// A key's values; those of a compact row are written to `decoded`.
const float* keyAt(const Inputs& in, int64_t row, const RowKeys& keys, int64_t index,
                   float* decoded) {
  const BatchRow& at = in.rows[row];
  const std::byte* found = nullptr;
  if (index >= keys.windowCount) {
    const int64_t entry = index - keys.windowCount;
    found = in.entries->row(at.slot, keys.picks == nullptr ? entry : keys.picks[entry]);
  } else {
    const int64_t position = keys.firstPosition + index;
    if (position >= at.start) return in.own + (row - (at.position - position)) * in.width();
    found = in.window.row(at.slot, position);
  }
  if (!in.compact) return reinterpret_cast<const float*>(found);
  in.codec.decode(in.layout, reinterpret_cast<const uint8_t*>(found), decoded);
  return decoded;
}

/// Every row's list of keys. `picks` has room for the selection.
void listKeys(Context& context, const Inputs& in, RowKeys* keys, int32_t* picks) {
  const int64_t topK = in.selected.rank == 0 ? 0 : in.selected.shape[1];
  std::atomic<int64_t> missing{-1};
  context.pool.parallelFor((in.rows.count() + rowsEach - 1) / rowsEach, [&](int64_t chunk, int) {
    const int64_t end = std::min(in.rows.count(), (chunk + 1) * rowsEach);
    for (int64_t row = chunk * rowsEach; row < end; row++) {
      const BatchRow& at = in.rows[row];
      const int64_t first = std::max<int64_t>(0, at.position - in.windowSize + 1);
      keys[row] = {first, at.position - first + 1, 0, nullptr};
      if (in.entries == nullptr) continue;
      if (in.selected.rank == 0) {
        keys[row].entryCount = visibleEntries(at.position, in.ratio);
        continue;
      }
      int32_t* kept = picks + row * topK;
      int64_t count = 0;
      for (int64_t i = 0; i < topK; i++) {
        const int32_t pick = in.selected.as<const int32_t>()[row * topK + i];
        if (pick < 0) continue;
        if (in.entries->row(at.slot, pick) == nullptr) missing.store(row);
        kept[count++] = pick;
      }
      keys[row].entryCount = count;
      keys[row].picks = kept;
    }
  });
  if (missing.load() >= 0) {
    throw OpError("out_of_range", "row " + std::to_string(missing.load()) +
                                      " selects an entry that has no page");
  }
}

class Attention {
 public:
  Attention(Context& context, const Inputs& in, const RowKeys* keys, const Rotations& rotations)
      : context_(context),
        in_(in),
        keys_(keys),
        rotations_(rotations),
        dots_(queryDots(context.isa)),
        values_(weightedValues(context.isa)),
        softmax_(softmax(context.isa)),
        merge_(merge(context.isa)),
        finish_(finish(context.isa)) {}

  void run() {
    const int64_t rows = in_.rows.count();
    int64_t blocksMax = 1;
    for (int64_t row = 0; row < rows; row++) blocksMax = std::max(blocksMax, keys_[row].blocks());
    const int64_t threads = context_.pool.threads();
    const int64_t bytes = rows * in_.groups() * blocksMax * Partial::floats(in_.stride()) * 4;
    if (threads > 1 && rows < rowsPerThread * threads && bytes <= partialBytesMax) {
      runBlocks(blocksMax);
    } else {
      runRows();
    }
  }

 private:
  int64_t headsOf(int64_t group) const {
    return std::min<int64_t>(queryGroup, in_.heads() - group * queryGroup);
  }

  int64_t queryFloats() const { return in_.width() * queryGroup; }
  int64_t partialFloats() const { return Partial::floats(in_.stride()); }
  /// Room for the keys of a block, where they have to be decoded.
  int64_t decodedFloats() const { return in_.compact ? blockKeys * in_.width() : 0; }

  /// All of a row's queries, sixteen by sixteen.
  void interleave(int64_t row, float* into) const {
    for (int64_t group = 0; group < in_.groups(); group++) {
      const int64_t first = row * in_.heads() + group * queryGroup;
      interleaveQueries(in_.queries.as<const float>() + first * in_.width(), headsOf(group),
                        in_.width(), in_.width(), into + group * queryFloats());
    }
  }

  /// A block's keys, for all heads of the row.
  int64_t gather(int64_t row, int64_t block, float* decoded, const float** list) const {
    const RowKeys& keys = keys_[row];
    const int64_t first = block * blockKeys;
    const int64_t count = std::min(blockKeys, keys.count() - first);
    for (int64_t i = 0; i < count; i++) {
      float* place = decoded + (in_.compact ? i * in_.width() : 0);
      list[i] = keyAt(in_, row, keys, first + i, place);
    }
    return count;
  }

  void attend(int64_t group, const float* const* list, int64_t count, const float* queries,
              const Partial& into) const {
    float weights[blockKeys * queryGroup];
    dots_(queries, in_.width(), list, count, weights);
    softmax_(weights, count, in_.scale, into.largest, into.weights);
    values_(weights, list, count, headsOf(group), in_.width(), into.sums, into.stride);
  }

  /// A softmax over the sink alone, which has no value.
  void begin(int64_t group, const Partial& all) const {
    for (int64_t h = 0; h < headsOf(group); h++) {
      all.largest[h] = in_.sink[group * queryGroup + h];
      all.weights[h] = 1.0f;
    }
    std::fill_n(all.sums, queryGroup * all.stride, 0.0f);
  }

  void end(int64_t row, int64_t group, const Partial& all) const {
    const int64_t head = row * in_.heads() + group * queryGroup;
    finish_(all, headsOf(group), in_.width(), rotations_.row(row), rotations_.pairs(),
            in_.output + head * in_.width());
  }

  /// One thread a row: its keys are brought, and decoded, once for all heads.
  void runRows() {
    const int64_t groups = in_.groups();
    const int64_t floatsEach =
        groups * (queryFloats() + partialFloats()) + partialFloats() + decodedFloats();
    float* memory = context_.scratch.take<float>(floatsEach * context_.pool.threads());
    context_.pool.parallelFor(in_.rows.count(), [&](int64_t row, int worker) {
      float* queries = memory + floatsEach * worker;
      float* sums = queries + groups * queryFloats();
      const auto all = [&](int64_t group) {
        return Partial::at(sums + group * partialFloats(), in_.stride());
      };
      const Partial block = all(groups);
      float* decoded = sums + (groups + 1) * partialFloats();
      interleave(row, queries);
      for (int64_t group = 0; group < groups; group++) begin(group, all(group));
      for (int64_t b = 0; b < keys_[row].blocks(); b++) {
        const float* list[blockKeys];
        const int64_t count = gather(row, b, decoded, list);
        for (int64_t group = 0; group < groups; group++) {
          attend(group, list, count, queries + group * queryFloats(), block);
          merge_(all(group), block, headsOf(group), in_.width());
        }
      }
      for (int64_t group = 0; group < groups; group++) end(row, group, all(group));
    });
  }

  /// One thread a block, or where even those are few, some of its heads.
  void runBlocks(int64_t blocksMax) {
    const int64_t rows = in_.rows.count();
    const int64_t groups = in_.groups();
    float* queries = context_.scratch.take<float>(rows * groups * queryFloats());
    float* partials =
        context_.scratch.take<float>(rows * groups * (blocksMax + 1) * partialFloats());
    float* decoded = context_.scratch.take<float>(decodedFloats() * context_.pool.threads());
    // A row's blocks lie one after the other, each with all its groups, and what they add up to last.
    const auto partialOf = [&](int64_t row, int64_t block, int64_t group) {
      const int64_t place = (row * (blocksMax + 1) + block) * groups + group;
      return Partial::at(partials + place * partialFloats(), in_.stride());
    };
    context_.pool.parallelFor(rows, [&](int64_t row, int) {
      interleave(row, queries + row * groups * queryFloats());
    });
    const int64_t wanted = chunksPerThread * context_.pool.threads() / (rows * blocksMax);
    const int64_t parts = std::clamp<int64_t>(wanted, 1, groups);
    context_.pool.parallelFor(rows * blocksMax * parts, [&](int64_t index, int worker) {
      const int64_t row = index / parts / blocksMax;
      const int64_t b = index / parts % blocksMax;
      const int64_t part = index % parts;
      if (b >= keys_[row].blocks()) return;
      const float* list[blockKeys];
      const int64_t count = gather(row, b, decoded + worker * decodedFloats(), list);
      for (int64_t group = part * groups / parts; group < (part + 1) * groups / parts; group++) {
        attend(group, list, count, queries + (row * groups + group) * queryFloats(),
               partialOf(row, b, group));
      }
    });
    context_.pool.parallelFor(rows * groups, [&](int64_t index, int) {
      const int64_t row = index / groups;
      const int64_t group = index % groups;
      const Partial all = partialOf(row, blocksMax, group);
      begin(group, all);
      for (int64_t b = 0; b < keys_[row].blocks(); b++) {
        merge_(all, partialOf(row, b, group), headsOf(group), in_.width());
      }
      end(row, group, all);
    });
  }

  Context& context_;
  const Inputs& in_;
  const RowKeys* keys_;
  const Rotations& rotations_;
  QueryDots dots_;
  WeightedValues values_;
  decltype(softmax(Isa::portable)) softmax_;
  decltype(merge(Isa::portable)) merge_;
  decltype(finish(Isa::portable)) finish_;
};

/// The step's keys as a later step will find them in the window: else a row's result would depend on
/// where its sequence was cut into steps.
void keepOwn(Context& context, Inputs& in) {
  const int64_t width = in.width();
  const int64_t bytes = in.window.rowBytes;
  const float* own = in.own;
  uint8_t* rows = context.scratch.take<uint8_t>(in.rows.count() * bytes);
  float* values = context.scratch.take<float>(in.rows.count() * width);
  context.pool.parallelFor((in.rows.count() + rowsEach - 1) / rowsEach, [&](int64_t chunk, int) {
    const int64_t end = std::min(in.rows.count(), (chunk + 1) * rowsEach);
    for (int64_t row = chunk * rowsEach; row < end; row++) {
      in.codec.encode(in.layout, own + row * width, rows + row * bytes);
      in.codec.decode(in.layout, rows + row * bytes, values + row * width);
    }
  });
  in.own = values;
  in.ownRows = rows;
}

void storeKeys(Context& context, const Inputs& in) {
  const auto* own = in.compact ? in.ownRows : reinterpret_cast<const uint8_t*>(in.own);
  const int64_t bytes = in.window.rowBytes;
  context.pool.parallelFor((in.rows.count() + rowsEach - 1) / rowsEach, [&](int64_t chunk, int) {
    const int64_t end = std::min(in.rows.count(), (chunk + 1) * rowsEach);
    for (int64_t row = chunk * rowsEach; row < end; row++) {
      const BatchRow& at = in.rows[row];
      if (in.window.overwritten(at)) continue;
      std::memcpy(in.window.row(at.slot, at.position), own + row * bytes, static_cast<size_t>(bytes));
    }
  });
}

void attention(Context& context, Args& args) {
  const Tensor queries = args.tensor(DType::f32, 3);
  const Tensor own = args.tensor(DType::f32, 2);
  const Tensor window = args.tensor();
  const int64_t windowSize = args.integer();
  const Tensor sink = args.tensor(DType::f32, 1);
  const Tensor frequencies = args.tensor(DType::f32, 1);
  const BatchRows rows(args.tensor(DType::i32, 2));
  const Tensor pages = args.tensor(DType::i32, 2);
  const double scale = args.number();
  const Tensor output = args.tensor(DType::f32, 3);
  const auto layout = CompactLayout::key(queries.shape[2], 2 * frequencies.count());
  const bool compact = holdsCompactRows(window, layout);
  Inputs in{rows,       queries, own.as<const float>(),  Ring(window),
            windowSize, nullptr, 1,                      Tensor{},
            sink.as<const float>(), static_cast<float>(scale), output.as<float>(),
            compact,    layout,  compactCodec(context.isa), nullptr};
  std::optional<EntryPages> entries;
  if (args.flag()) {
    const Tensor cached = args.tensor();
    if (holdsCompactRows(cached, layout) != compact) {
      throw OpError("unsupported_op", "window and entries are not kept alike");
    }
    entries.emplace(cached, pages);
    in.entries = &*entries;
    in.ratio = args.integer();
    if (args.flag()) in.selected = args.tensor(DType::i32, 2);
  }
  args.finish();
  rows.check(window.shape[0]);
  if (in.entries != nullptr && in.selected.rank == 0) checkVisible(rows, *in.entries, in.ratio);

  RowKeys* keys = context.scratch.take<RowKeys>(rows.count());
  const int64_t selected = in.selected.rank == 0 ? 0 : in.selected.count();
  listKeys(context, in, keys, context.scratch.take<int32_t>(selected));
  if (compact) keepOwn(context, in);
  const Rotations rotations(context, rows, frequencies);
  Attention(context, in, keys, rotations).run();
  // Only now: until here the window held keys that some row of this step still had to read.
  storeKeys(context, in);
}

const RegisterOp registered("attention", attention);

}  // namespace
}  // namespace sluice
