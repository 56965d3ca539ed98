// compress: blocks of tokens pooled into cache entries; raw rows kept for later blocks
// (`compress.ts`).
//
// Softmax, sums, norm and rotation in double, as the reference does them: what a block is
// remembered as is rounded to FP8 or FP4 afterwards, and a value on the other side of a boundary is
// off by a whole step. Against the products around it the op is small even so.
//
// Flash, 256 rows that lie in cache, one thread of Zen 4: ratio 4 0.62 ms (AVX2 1.1, portable 4.4),
// its index 0.19 ms, ratio 128 0.27 ms; a single row that completes a block 11, 4 and 150 µs.

#include <algorithm>
#include <cstring>
#include <limits>

#include "../native/batch.h"
#include "../native/compact-rows.h"
#include "../native/key-finish.h"
#include "../native/norm-weight.h"
#include "../native/op.h"
#include "../native/rotation.h"

namespace sluice {
namespace {

/// A page's 256 tokens at most, twice over where blocks overlap.
constexpr int pooledMax = 512;
/// Channels pooled at a time: one cache line of every row.
constexpr int lanes = 16;
/// Ring rows one thread copies at a time.
constexpr int64_t rowsEach = 8;

struct RawRow {
  const float* values;
  const float* scores;
};

/// One row's part of a block, from the first channel that this block reads.
struct PooledRow {
  const float* values;
  const float* scores;
  const float* ape;
};

/// e^x for x ≤ 0, to 2^-51; 0 below −708. x = n·ln 2 + r, |r| ≤ ln 2 ÷ 2; thirteen terms of e^r
/// leave 4e-18. Adding 1.5·2^52 rounds n and leaves it in the last bits, from where it is an exponent.
SLUICE_INLINE double expOf(double x) {
  constexpr double shifter = 0x1.8p52;
  const double shifted = x * 0x1.71547652b82fep0 + shifter;
  const double n = shifted - shifter;
  const double r = (x - n * 0x1.62e42fefa3800p-1) - n * 0x1.ef35793c76730p-45;
  double sum = 1.0 / 6227020800.0;
  sum = sum * r + 1.0 / 479001600.0;
  sum = sum * r + 1.0 / 39916800.0;
  sum = sum * r + 1.0 / 3628800.0;
  sum = sum * r + 1.0 / 362880.0;
  sum = sum * r + 1.0 / 40320.0;
  sum = sum * r + 1.0 / 5040.0;
  sum = sum * r + 1.0 / 720.0;
  sum = sum * r + 1.0 / 120.0;
  sum = sum * r + 1.0 / 24.0;
  sum = sum * r + 1.0 / 6.0;
  sum = sum * r + 0.5;
  sum = sum * r + 1.0;
  sum = sum * r + 1.0;
  const double power = std::bit_cast<double>((std::bit_cast<uint64_t>(shifted) + 1023) << 52);
  // A mask instead of a choice between floats: that the compiler would make a branch.
  const uint64_t kept = x < -708.0 ? uint64_t{0} : ~uint64_t{0};
  return std::bit_cast<double>(std::bit_cast<uint64_t>(sum * power) & kept);
}

/// Σ softmax(score + ape)·value over the rows, for `count` channels from `from` on.
SLUICE_INLINE void poolLanes(const PooledRow* rows, int rowCount, int64_t from, int count,
                             float* into) {
  double largest[lanes];
  double weights[lanes] = {};
  double sums[lanes] = {};
  for (double& value : largest) value = -std::numeric_limits<double>::infinity();
  for (int i = 0; i < rowCount; i++) {
    const float* scores = rows[i].scores + from;
    const float* ape = rows[i].ape + from;
    for (int c = 0; c < count; c++) {
      const double score = double(scores[c]) + double(ape[c]);
      largest[c] = largest[c] >= score ? largest[c] : score;
    }
  }
  for (int i = 0; i < rowCount; i++) {
    const float* scores = rows[i].scores + from;
    const float* ape = rows[i].ape + from;
    const float* values = rows[i].values + from;
    for (int c = 0; c < count; c++) {
      const double weight = expOf(double(scores[c]) + double(ape[c]) - largest[c]);
      weights[c] += weight;
      sums[c] += weight * double(values[c]);
    }
  }
  for (int c = 0; c < count; c++) into[from + c] = static_cast<float>(sums[c] / weights[c]);
}

SLUICE_INLINE void poolBody(const PooledRow* rows, int rowCount, int64_t width, float* into) {
  int64_t from = 0;
  for (; from + lanes <= width; from += lanes) poolLanes(rows, rowCount, from, lanes, into);
  if (from < width) poolLanes(rows, rowCount, from, static_cast<int>(width - from), into);
}

SLUICE_PER_ISA(pool, poolBody,
               (const PooledRow* rows, int rowCount, int64_t width, float* into),
               (rows, rowCount, width, into))

struct Finish {
  const float* norm;
  double eps;
  const float* frequencies;
  int64_t pairs;
  bool forIndex;
  bool quantise;
};

/// `work` holds 2·width doubles.
SLUICE_INLINE void finishBody(const Finish& finish, float* entry, int64_t width,
                              const double* angles, double* work) {
  rmsNorm(entry, finish.norm, width, finish.eps);
  const int64_t plain = width - 2 * finish.pairs;
  rotatePairs(entry + plain, angles, finish.pairs, false);
  if (finish.forIndex) {
    walshHadamard(entry, width, work);
    if (finish.quantise) simulateIndex(entry, width);
  } else if (finish.quantise) {
    simulateKeys(entry, plain);
  }
}

SLUICE_PER_ISA(finishEntry, finishBody,
               (const Finish& finish, float* entry, int64_t width, const double* angles,
                double* work),
               (finish, entry, width, angles, work))

/// Values and scores of one step, or of earlier ones by position.
class Source {
 public:
  Source(const Tensor& values, const Tensor& scores, const Tensor& valueRing,
         const Tensor& scoreRing)
      : values_(values.as<const float>()),
        scores_(scores.as<const float>()),
        valueRing_(valueRing),
        scoreRing_(scoreRing) {}

  /// The row of `position` in the sequence of `at`, which is batch row `row`.
  RawRow find(int64_t row, const BatchRow& at, int64_t position) const {
    if (position >= at.start) {
      const int64_t from = (row - (at.position - position)) * valueRing_.width;
      return {values_ + from, scores_ + from};
    }
    return {valueRing_.at(at.slot, position), scoreRing_.at(at.slot, position)};
  }

  void keep(int64_t row, const BatchRow& at) const {
    if (valueRing_.overwritten(at)) return;
    const int64_t from = row * valueRing_.width;
    const size_t bytes = static_cast<size_t>(valueRing_.width) * sizeof(float);
    std::memcpy(valueRing_.at(at.slot, at.position), values_ + from, bytes);
    std::memcpy(scoreRing_.at(at.slot, at.position), scores_ + from, bytes);
  }

 private:
  const float* values_;
  const float* scores_;
  Ring valueRing_;
  Ring scoreRing_;
};

struct Blocks {
  int64_t ratio;
  int64_t span;
  const float* ape;
};

/// Rows of the block that ends at `at`; with a span of two those of the block before come first,
/// and give the first half of their channels. The first block has none before it.
int gatherBlock(const Blocks& blocks, const Source& source, int64_t row, const BatchRow& at,
                int64_t width, PooledRow* into) {
  const int64_t channels = blocks.span * width;
  const int64_t pooled = blocks.span * blocks.ratio;
  int count = 0;
  for (int64_t i = 0; i < pooled; i++) {
    const int64_t position = at.position - pooled + 1 + i;
    if (position < 0) continue;
    const int64_t half = i < blocks.ratio ? 0 : width;
    const RawRow found = source.find(row, at, position);
    into[count++] = {found.values + half, found.scores + half,
                     blocks.ape + position % blocks.ratio * channels + half};
  }
  return count;
}

void compress(Context& context, Args& args) {
  const Tensor values = args.tensor(DType::f32, 2);
  const Tensor scores = args.tensor(DType::f32, 2);
  const Tensor ape = args.tensor(DType::f32, 2);
  const float* norm = normWeight(context, args.tensor());
  const Tensor frequencies = args.tensor(DType::f32, 1);
  const BatchRows rows(args.tensor(DType::i32, 2));
  const Tensor pages = args.tensor(DType::i32, 2);
  const Tensor valueRing = args.tensor(DType::f32, 3);
  const Tensor scoreRing = args.tensor(DType::f32, 3);
  const Tensor cached = args.tensor();
  const Blocks blocks{args.integer(), args.integer(), ape.as<const float>()};
  const bool forIndex = args.flag();
  const bool quantise = args.flag();
  const Finish finish{norm,     args.number(), frequencies.as<const float>(), frequencies.count(),
                      forIndex, quantise};
  args.finish();
  rows.check(valueRing.shape[0]);
  const int64_t width = valueRing.shape[2] / blocks.span;
  const CompactLayout layout = forIndex ? CompactLayout::indexKey(width)
                                        : CompactLayout::key(width, 2 * finish.pairs);
  const bool compact = holdsCompactRows(cached, layout);
  const EntryPages entries(cached, pages);
  if (blocks.ratio * blocks.span > pooledMax) {
    throw OpError("unsupported_op", "blocks of " + std::to_string(blocks.ratio) + " are too long");
  }

  int64_t* ends = context.scratch.take<int64_t>(rows.count());
  int64_t count = 0;
  for (int64_t row = 0; row < rows.count(); row++) {
    const BatchRow& at = rows[row];
    if ((at.position + 1) % blocks.ratio != 0) continue;
    const int64_t entry = visibleEntries(at.position, blocks.ratio) - 1;
    if (entries.row(at.slot, entry) == nullptr) throw EntryPages::missing(at.slot, entry);
    ends[count++] = row;
  }

  const Source source(values, scores, valueRing, scoreRing);
  const int64_t workEach = 2 * finish.pairs + 2 * width;
  double* work = context.scratch.take<double>(workEach * context.pool.threads());
  // A compact entry is made here, one thread's beside another's, and then written down.
  float* made = context.scratch.take<float>(compact ? width * context.pool.threads() : 0);
  const CompactCodec codec = compactCodec(context.isa);
  const auto poolRows = pool(context.isa);
  const auto finishOne = finishEntry(context.isa);
  context.pool.parallelFor(count, [&](int64_t index, int worker) {
    const int64_t row = ends[index];
    const BatchRow& at = rows[row];
    PooledRow pooled[pooledMax];
    const int found = gatherBlock(blocks, source, row, at, width, pooled);
    std::byte* place = entries.row(at.slot, visibleEntries(at.position, blocks.ratio) - 1);
    float* entry = compact ? made + width * worker : reinterpret_cast<float*>(place);
    poolRows(pooled, found, width, entry);
    double* angles = work + workEach * worker;
    fillAngles(finish.frequencies, finish.pairs, at.position + 1 - blocks.ratio, angles);
    finishOne(finish, entry, width, angles, angles + 2 * finish.pairs);
    if (compact) codec.encode(layout, entry, reinterpret_cast<uint8_t*>(place));
  });
  // Only now: until here the rings held rows that some block of this step still had to read.
  context.pool.parallelFor((rows.count() + rowsEach - 1) / rowsEach, [&](int64_t chunk, int) {
    const int64_t end = std::min(rows.count(), (chunk + 1) * rowsEach);
    for (int64_t row = chunk * rowsEach; row < end; row++) source.keep(row, rows[row]);
  });
}

const RegisterOp registered("compress", compress);

}  // namespace
}  // namespace sluice
