#include "async.h"

#include <algorithm>
#include <cstdio>
#include <deque>
#include <map>
#include <vector>

#include "../../../device/cuda/testing/tensor-map.h"
#include "simt.h"

#if defined(__SANITIZE_THREAD__)
extern "C" {
void __tsan_acquire(void* at);
void __tsan_release(void* at);
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace simt {

namespace {

/// The runtime's own doings, templates included, while it lives; no other thread may run meanwhile.
struct Unseen {
#if defined(__SANITIZE_THREAD__)
  SLUICE_UNSEEN Unseen() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  SLUICE_UNSEEN ~Unseen() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
#else
  Unseen() {}
#endif
};

/// Nothing says that dynamic shared memory begins where a tile could.
constexpr uint32_t sharedBegin = 1024 + 128;
constexpr int groupThreads = 128;
constexpr int productDepth = 32;
/// Bits below the largest of a product's terms that are still added.
constexpr int keptBits = 13;
constexpr uint32_t notANumber = 0x7fd37fb9u;

struct Phase {
  uint32_t arrivals;
  uint32_t missing;
  int64_t bytes;
  uint32_t ended;
  /// Who began it, whether that was made known, and to whom: those it met since at the block's barrier.
  int owner;
  bool fenced;
  int since;
#if defined(__SANITIZE_THREAD__)
  char order;
#endif
};

struct Copy {
  uint32_t into;
  SluiceTensorMap map;
  int column;
  int row;
  uint32_t barrier;
};

struct Begun {
  Product product;
  /// Its place in what the warpgroup has begun.
  size_t number;
  /// What stood in the registers, where nothing was under way in them.
  std::vector<float> before;
};

struct ThreadProducts {
  bool fenced;
  size_t count;
  std::vector<Begun> open;
  std::vector<Begun> committed;
};

/// What all threads of a warpgroup have to agree on, and the words of A they bring.
struct GroupProduct {
  uint64_t a;
  uint64_t b;
  int columns;
  bool keep;
  bool fromRegisters;
  std::vector<uint32_t> words;
};

std::map<uint32_t, Phase> phases;
std::deque<Copy> copies;
std::vector<ThreadProducts> products;
std::vector<std::vector<GroupProduct>> groups;
float e4m3[256];

SLUICE_UNSEEN void fillTable() {
  for (int code = 0; code < 256; code++) {
    const int exponent = code >> 3 & 15;
    const float fraction = static_cast<float>(code & 7);
    const float magnitude = exponent == 0 ? std::ldexp(fraction, -9)
                                          : std::ldexp(8 + fraction, exponent - 10);
    e4m3[code] = (code & 127) == 127 ? __uint_as_float(notANumber)
                                     : (code & 128) != 0 ? -magnitude : magnitude;
  }
}

SLUICE_UNSEEN unsigned char* sharedAt(uint32_t address, uint32_t bytes) {
  if (address < sharedBegin || address - sharedBegin + bytes > sharedBytes) {
    fail("the tensor cores or the copy engine reach outside of shared memory");
  }
  return sharedMemory + (address - sharedBegin);
}

SLUICE_UNSEEN Phase& phaseAt(uint32_t at) {
  const auto found = phases.find(at);
  if (found == phases.end()) fail("a phase barrier was not begun");
  Phase& phase = found->second;
  if (phase.owner != current->number && phase.since == barriersPassed) {
    fail("a phase barrier is used by threads that did not meet the one that began it");
  }
  return phase;
}

SLUICE_UNSEEN void endIfComplete(Phase& phase) {
  if (phase.missing != 0 || phase.bytes != 0) return;
  phase.ended++;
  phase.missing = phase.arrivals;
}

SLUICE_UNSEEN bool hasEnded(uint32_t at, uint32_t parity) {
  const Unseen unseen;
  return (phases.at(at).ended & 1) != (parity & 1);
}

/// Bits 4 … 6 of an address are exchanged by those above them, as many as the pattern has.
SLUICE_UNSEEN uint32_t swizzled(uint32_t address, int bits) {
  const uint32_t mask = (1u << bits) - 1;
  return address ^ (address >> 7 & mask) << 4;
}

/// 32 bytes of a row of a factor.
SLUICE_UNSEEN void readFactor(uint64_t descriptor, int row, float* into) {
  const uint32_t start = static_cast<uint32_t>(descriptor & 0x3fff) << 4;
  const uint32_t leading = static_cast<uint32_t>(descriptor >> 16 & 0x3fff) << 4;
  const uint32_t eightRows = static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4;
  const int mode = static_cast<int>(descriptor >> 62);
  if ((descriptor >> 49 & 7) != 0) fail("a product's factor has a base offset, which is not known here");
  // 0: none, else 128, 64 or 32 bytes a row and 3, 2 or 1 bits.
  const int bits = mode == 0 ? 0 : 4 - mode;
  const uint32_t pitch = 16u << bits;
  const uint32_t first = start + static_cast<uint32_t>(row / 8) * eightRows;
  for (uint32_t chunk = 0; chunk < 2; chunk++) {
    const uint32_t at = first + static_cast<uint32_t>(row % 8) * pitch +
                        (mode == 0 ? chunk * leading : chunk * 16);
    const unsigned char* const from = sharedAt(swizzled(at, bits), 16);
    for (int i = 0; i < 16; i++) into[16 * chunk + static_cast<uint32_t>(i)] = e4m3[from[i]];
  }
}

/// c + Σ a·b as narrow as the tensor cores add: every term cut to `keptBits` below the largest.
SLUICE_UNSEEN float narrowSum(float c, const float* a, const float* b) {
  float terms[productDepth];
  uint32_t largest = __float_as_uint(c) & 0x7fffffffu;
  for (int i = 0; i < productDepth; i++) {
    terms[i] = a[i] * b[i];
    largest = std::max(largest, __float_as_uint(terms[i]) & 0x7fffffffu);
  }
  if (largest > 0x7f800000u) return __uint_as_float(notANumber);
  const int exponent = static_cast<int>(largest >> 23);
  if (exponent <= keptBits) return 0;
  const float up = __uint_as_float(static_cast<uint32_t>(127 + keptBits + 127 - exponent) << 23);
  int sum = static_cast<int>(c * up);
  for (int i = 0; i < productDepth; i++) sum += static_cast<int>(terms[i] * up);
  return static_cast<float>(sum) / up;
}

SLUICE_UNSEEN void readLanes(const GroupProduct& shared, int thread, int half, float* into) {
  const int first = thread / 4 * 4;
  for (int t = 0; t < 4; t++) {
    for (int part = 0; part < 2; part++) {
      const uint32_t word = shared.words[static_cast<size_t>(first + t) * 4 +
                                         static_cast<size_t>(half + 2 * part)];
      for (int i = 0; i < 4; i++) into[16 * part + 4 * t + i] = e4m3[word >> 8 * i & 255];
    }
  }
}

SLUICE_UNSEEN bool untouched(const float* d, int count) {
  for (int i = 0; i < count; i++) {
    if (__float_as_uint(d[i]) != notANumber) return false;
  }
  return true;
}

SLUICE_UNSEEN void finish(const Begun& begun, const GroupProduct& shared) {
  const Product& product = begun.product;
  const int count = product.columns / 2;
  if (!begun.before.empty()) {
    if (!untouched(product.d, count)) fail("registers of a product under way were changed");
    std::copy(begun.before.begin(), begun.before.end(), product.d);
  }
  const int thread = current->number % groupThreads;
  const int row = thread / warpSize * 16 + thread % warpSize / 4;
  float a[2][productDepth];
  for (int half = 0; half < 2; half++) {
    if (shared.fromRegisters) readLanes(shared, thread, half, a[half]);
    else readFactor(product.a, row + 8 * half, a[half]);
  }
  for (int j = 0; j < product.columns / 8; j++) {
    for (int e = 0; e < 2; e++) {
      float b[productDepth];
      readFactor(product.b, 8 * j + thread % 4 * 2 + e, b);
      for (int half = 0; half < 2; half++) {
        float& d = product.d[4 * j + 2 * half + e];
        d = narrowSum(product.keep ? d : 0.0f, a[half], b);
      }
    }
  }
}

SLUICE_UNSEEN std::vector<GroupProduct>& groupOfThread() {
  const size_t group = static_cast<size_t>(current->number / groupThreads);
  if ((group + 1) * groupThreads > products.size()) fail("a product without a whole warpgroup");
  return groups[group];
}

}  // namespace

int barriersPassed;
uint32_t sharedBytes;

SLUICE_UNSEEN uint32_t sharedAddress(const void* at) {
  const auto* const byte = static_cast<const unsigned char*>(at);
  return sharedBegin + static_cast<uint32_t>(byte - sharedMemory);
}

SLUICE_UNSEEN void phaseBegin(uint32_t at, uint32_t arrivals) {
  const Unseen unseen;
  if (at % 8 != 0) fail("a phase barrier is not aligned");
  sharedAt(at, 8);
  Phase phase{};
  phase.arrivals = arrivals;
  phase.missing = arrivals;
  phase.owner = current->number;
  phase.since = barriersPassed;
  phases[at] = phase;
}

SLUICE_UNSEEN void phaseFence() {
  const Unseen unseen;
  for (auto& [at, phase] : phases) phase.fenced = phase.fenced || phase.owner == current->number;
}

SLUICE_UNSEEN void phaseArrive(uint32_t at, uint32_t bytes) {
  {
    const Unseen unseen;
    Phase& phase = phaseAt(at);
#if defined(__SANITIZE_THREAD__)
    __tsan_release(&phase.order);
#endif
    phase.bytes += bytes;
    phase.missing--;
    endIfComplete(phase);
  }
  // Whoever waited for it goes on before this thread does; who announces bytes still has to ask for them.
  if (bytes == 0) giveWayOnce();
}

SLUICE_UNSEEN void phaseWait(uint32_t at, uint32_t parity) {
  {
    const Unseen unseen;
    phaseAt(at);
  }
  waitUntil(hasEnded, at, parity);
#if defined(__SANITIZE_THREAD__)
  const Unseen unseen;
  __tsan_acquire(&phaseAt(at).order);
#endif
}

SLUICE_UNSEEN void copyTile(uint32_t into, const uint64_t* map, int column, int row,
                            uint32_t barrier) {
  const Unseen unseen;
  Copy copy{};
  std::memcpy(&copy.map, map, sizeof copy.map);
  copy.into = into;
  copy.column = column;
  copy.row = row;
  copy.barrier = barrier;
  if (copy.map.mark != SLUICE_TENSOR_MAP_MARK) fail("a copy without a tensor map");
  if (!phaseAt(barrier).fenced) fail("a phase barrier was not made known to the copy engine");
  if (into % 128 != 0) fail("a copy's place in shared memory is not aligned");
  const uint32_t bytes = copy.map.boxColumns * copy.map.boxRows;
  std::memset(sharedAt(into, bytes), 0x7f, bytes);
  copies.push_back(copy);
}

SLUICE_UNSEEN bool finishCopy() {
  const Unseen unseen;
  if (copies.empty()) return false;
  const Copy copy = copies.front();
  copies.pop_front();
  const SluiceTensorMap& map = copy.map;
  const auto* const matrix = reinterpret_cast<const unsigned char*>(map.address);
  for (uint32_t r = 0; r < map.boxRows; r++) {
    for (uint32_t c = 0; c < map.boxColumns; c++) {
      const int64_t row = copy.row + int64_t{r};
      const int64_t column = copy.column + int64_t{c};
      const bool inside = row >= 0 && row < int64_t(map.rows) && column >= 0 &&
                          column < int64_t(map.columns);
      const uint32_t at = copy.into + r * map.boxColumns + c;
      *sharedAt(swizzled(at, static_cast<int>(map.swizzle)), 1) =
          inside ? matrix[row * int64_t(map.rowBytes) + column] : 0;
    }
  }
  Phase& phase = phases.at(copy.barrier);
  phase.bytes -= int64_t{map.boxColumns} * map.boxRows;
  endIfComplete(phase);
  return true;
}

SLUICE_UNSEEN void productFence() {
  const Unseen unseen;
  products[static_cast<size_t>(current->number)].fenced = true;
}

SLUICE_UNSEEN void productBegin(const Product& product) {
  const Unseen unseen;
  ThreadProducts& own = products[static_cast<size_t>(current->number)];
  std::vector<GroupProduct>& group = groupOfThread();
  if (!own.fenced) fail("a product's registers were not fenced");
  const size_t number = own.count++;
  if (number == group.size()) {
    group.push_back({product.a, product.b, product.columns, product.keep,
                     product.registers != nullptr, std::vector<uint32_t>(groupThreads * 4)});
  }
  GroupProduct& shared = group[number];
  if (shared.a != product.a || shared.b != product.b || shared.columns != product.columns ||
      shared.keep != product.keep) {
    fail("threads of a warpgroup begin different products");
  }
  if (product.registers != nullptr) {
    const size_t thread = static_cast<size_t>(current->number % groupThreads);
    std::copy(product.registers, product.registers + 4, shared.words.begin() + 4 * int64_t(thread));
  }
  Begun begun{product, number, {}};
  const auto sameRegisters = [&](const Begun& other) { return other.product.d == product.d; };
  const int count = product.columns / 2;
  if (std::none_of(own.open.begin(), own.open.end(), sameRegisters) &&
      std::none_of(own.committed.begin(), own.committed.end(), sameRegisters)) {
    begun.before.assign(product.d, product.d + count);
    std::fill(product.d, product.d + count, __uint_as_float(notANumber));
  }
  own.open.push_back(std::move(begun));
}

SLUICE_UNSEEN void productCommit() {
  const Unseen unseen;
  ThreadProducts& own = products[static_cast<size_t>(current->number)];
  std::move(own.open.begin(), own.open.end(), std::back_inserter(own.committed));
  own.open.clear();
}

SLUICE_UNSEEN void productWait() {
  // All lanes have brought their part of A.
  uint32_t words[exchangeWords] = {};
  meet(0xffffffffu, nullptr, words, words);
  const Unseen unseen;
  ThreadProducts& own = products[static_cast<size_t>(current->number)];
  const std::vector<GroupProduct>& group = groupOfThread();
  for (const Begun& begun : own.committed) finish(begun, group[begun.number]);
  own.committed.clear();
  own.fenced = false;
}

SLUICE_UNSEEN void beginAsync(int threads) {
  const Unseen unseen;
  if (e4m3[1] == 0) fillTable();
  phases.clear();
  copies.clear();
  products.assign(static_cast<size_t>(threads), {});
  groups.assign(static_cast<size_t>(threads) / groupThreads, {});
  barriersPassed = 0;
}

SLUICE_UNSEEN void endAsync() {
  const Unseen unseen;
  if (!copies.empty()) fail("a block ended before a copy's bytes had come");
  for (const ThreadProducts& own : products) {
    if (!own.open.empty() || !own.committed.empty()) fail("a product was never waited for");
  }
  for (size_t thread = 0; thread < groups.size() * groupThreads; thread++) {
    if (products[thread].count != groups[thread / groupThreads].size()) {
      fail("a thread left out a product of its warpgroup");
    }
  }
}

}  // namespace simt
