// attention: one softmax over a row's window and its compressed entries, the keys being the values
// (`attention.ts`).
//
// Sixteen heads of one row are the lanes of a vector and go through the row's keys together, 128 keys
// at a time. A block's weights are relative to its own largest score; blocks are then brought to a
// common largest one after the other, beginning with the sink. The order of every sum depends on the
// row's keys alone, so neither other rows nor threads change a bit: whether one thread does all
// blocks of a row or many do one each is only a matter of who is free.
//
// Error, u = 2^-24, n keys in b = n ÷ 128 blocks, width d. A score: chains of 128 fused steps and the
// additions of d ÷ 128 chains, (128 + d ÷ 128)·u·scale·Σ|q·k|, and 2u·|s| for scaling. With u·|s − M|
// for the subtraction and 2^-23 for exp that is ρ, a weight's relative error, to which each later
// block that holds a larger score adds 4u. Sums of weights and of values add (128 + 2b)·u of their
// positive terms, the division u:
//   |Δo| ≤ Σ p·ρ·|K| + |o|·Σ p·ρ + (256 + 4b + 2)·u·Σ p·|K|
// At worst; of random signs the square roots, so about 1e-6 of |K|. Without fused instructions each
// step rounds twice.
//
// Ladder, one thread of Zen 4 (one 512-bit multiply-add a cycle: 112 GFLOP/s), 16 heads × 128 keys
// of 512 in the second-level cache:
//   scores: heads as lanes, keys read value by value where they lie       108 GFLOP/s (AVX2 103)
//   values: 8 heads × 32 columns of rows 2 KiB apart                      100 (AVX2 55)
//           columns gathered first: for AVX2 a gain, else its stores cost  83 (AVX2  82)
//           16 heads × 16 columns: rows read once, where they lie         115
//   exp of 2,048 scores with a choice between floats 11.4 µs in AVX2; with a mask, vectorised, 2.7
//   next keys fetched while these are multiplied: 8,320 keys, 17 MB       76 → 93 whole
// Flash, one thread: decode 0.19 ms over 128 keys, 0.89 over 640, 11.4 over 8,320 (a million
// tokens, ratio 128); 256 rows 53, 228 and (192 keys) 76 ms: 81–94 GFLOP/s. AVX2 two thirds of it.

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

/// Blocks are spread over threads where there are fewer items than this for each.
constexpr int64_t itemsEach = 4;
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

/// Sixteen heads of one row.
struct Item {
  int64_t row;
  int64_t group;
};

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
    const int64_t items = in_.rows.count() * in_.groups();
    int64_t blocksMax = 1;
    for (int64_t row = 0; row < in_.rows.count(); row++) {
      blocksMax = std::max(blocksMax, keys_[row].blocks());
    }
    const int64_t threads = context_.pool.threads();
    const int64_t bytes = items * blocksMax * Partial::floats(in_.stride()) * 4;
    if (threads > 1 && blocksMax > 1 && items < itemsEach * threads && bytes <= partialBytesMax) {
      runBlocks(items, blocksMax);
    } else {
      runItems(items);
    }
  }

 private:
  Item itemAt(int64_t index) const { return {index / in_.groups(), index % in_.groups()}; }

  int64_t headsOf(const Item& item) const {
    return std::min<int64_t>(queryGroup, in_.heads() - item.group * queryGroup);
  }

  void interleave(const Item& item, float* into) const {
    const int64_t first = item.row * in_.heads() + item.group * queryGroup;
    interleaveQueries(in_.queries.as<const float>() + first * in_.width(), headsOf(item),
                      in_.width(), in_.width(), into);
  }

  /// Room for the keys of a block, where they have to be decoded.
  int64_t decodedFloats() const { return in_.compact ? blockKeys * in_.width() : 0; }

  void attendBlock(const Item& item, int64_t block, const float* queries, float* decoded,
                   const Partial& into) const {
    const RowKeys& keys = keys_[item.row];
    const int64_t first = block * blockKeys;
    const int64_t count = std::min(blockKeys, keys.count() - first);
    const float* list[blockKeys];
    for (int64_t i = 0; i < count; i++) {
      float* place = decoded + (in_.compact ? i * in_.width() : 0);
      list[i] = keyAt(in_, item.row, keys, first + i, place);
    }
    float weights[blockKeys * queryGroup];
    dots_(queries, in_.width(), list, count, weights);
    softmax_(weights, count, in_.scale, into.largest, into.weights);
    values_(weights, list, count, headsOf(item), in_.width(), into.sums, into.stride);
  }

  /// A softmax over the sink alone, which has no value.
  void begin(const Item& item, const Partial& all) const {
    for (int64_t h = 0; h < headsOf(item); h++) {
      all.largest[h] = in_.sink[item.group * queryGroup + h];
      all.weights[h] = 1.0f;
    }
    std::fill_n(all.sums, queryGroup * all.stride, 0.0f);
  }

  void end(const Item& item, const Partial& all) const {
    const int64_t head = item.row * in_.heads() + item.group * queryGroup;
    finish_(all, headsOf(item), in_.width(), rotations_.row(item.row), rotations_.pairs(),
            in_.output + head * in_.width());
  }

  /// One thread an item.
  void runItems(int64_t items) {
    const int64_t stride = in_.stride();
    const int64_t queryFloats = in_.width() * queryGroup;
    const int64_t partialFloats = Partial::floats(stride);
    const int64_t floatsEach = queryFloats + 2 * partialFloats + decodedFloats();
    float* memory = context_.scratch.take<float>(floatsEach * context_.pool.threads());
    context_.pool.parallelFor(items, [&](int64_t index, int worker) {
      const Item item = itemAt(index);
      float* queries = memory + floatsEach * worker;
      const Partial all = Partial::at(queries + queryFloats, stride);
      const Partial block = Partial::at(queries + queryFloats + partialFloats, stride);
      float* decoded = queries + queryFloats + 2 * partialFloats;
      interleave(item, queries);
      begin(item, all);
      for (int64_t b = 0; b < keys_[item.row].blocks(); b++) {
        attendBlock(item, b, queries, decoded, block);
        merge_(all, block, headsOf(item));
      }
      end(item, all);
    });
  }

  /// One thread a block.
  void runBlocks(int64_t items, int64_t blocksMax) {
    const int64_t stride = in_.stride();
    const int64_t queryFloats = in_.width() * queryGroup;
    const int64_t partialFloats = Partial::floats(stride);
    float* queries = context_.scratch.take<float>(items * queryFloats);
    float* partials = context_.scratch.take<float>(items * (blocksMax + 1) * partialFloats);
    context_.pool.parallelFor(items, [&](int64_t index, int) {
      interleave(itemAt(index), queries + index * queryFloats);
    });
    float* decoded = context_.scratch.take<float>(decodedFloats() * context_.pool.threads());
    context_.pool.parallelFor(items * blocksMax, [&](int64_t index, int worker) {
      const Item item = itemAt(index / blocksMax);
      if (index % blocksMax >= keys_[item.row].blocks()) return;
      attendBlock(item, index % blocksMax, queries + index / blocksMax * queryFloats,
                  decoded + worker * decodedFloats(), Partial::at(partials + (index + items) * partialFloats, stride));
    });
    context_.pool.parallelFor(items, [&](int64_t index, int) {
      const Item item = itemAt(index);
      const Partial all = Partial::at(partials + index * partialFloats, stride);
      begin(item, all);
      for (int64_t b = 0; b < keys_[item.row].blocks(); b++) {
        const int64_t place = items + index * blocksMax + b;
        merge_(all, Partial::at(partials + place * partialFloats, stride), headsOf(item));
      }
      end(item, all);
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
