#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "buffers.h"
#include "cpu.h"
#include "errors.h"
#include "rotation-tables.h"
#include "scratch.h"
#include "thread-pool.h"

namespace sluice {

/// Element types by the number `words.ts` gives them.
enum class DType : int { f32 = 0, bf16 = 1, i32 = 2, i64 = 3, f8e4m3 = 4, e8m0 = 5, fp4 = 6, u8 = 7 };

/// How exactly linears are computed. `exact`: activations keep 22 bits or more. `fast`: int8 per 32
/// against FP4, bfloat16 against FP8 and bf16 weights.
enum class Numerics : int { exact = 0, fast = 1 };

/// One device: what an op may use.
struct Context {
  Context(int threads, Isa isa, Numerics numerics) : pool(threads), isa(isa), numerics(numerics) {}

  Buffers buffers;
  ThreadPool pool;
  Scratch scratch;
  RotationTables rotations;
  Isa isa;
  Numerics numerics;
};

constexpr int rankMax = 4;

/// A tensor whose bytes were checked to lie inside its buffer.
struct Tensor {
  std::byte* data = nullptr;
  DType dtype = DType::f32;
  int rank = 0;
  std::array<int64_t, rankMax> shape{};

  int64_t count() const;
  int64_t bytes() const;
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data);
  }
};

/// A linear's weight `[out, in]` or a stack `[count, out, in]`. `scales` is null where the format has
/// none. `packed`: rows lie in panels of sixteen (`matmul/panels.h`), not one after the other.
struct Weight {
  Tensor codes;
  const uint8_t* scales = nullptr;
  bool packed = false;
};

/// Reads one op's arguments in the order its `pack` function in TypeScript wrote them. Numbers cross
/// as doubles: integers up to 2^53, offsets and parameters all in one word each.
class Args {
 public:
  Args(const Context& context, const char* op, const double* words, int64_t count)
      : context_(context), op_(op), words_(words), count_(count) {}

  double number() { return next(); }
  int64_t integer() { return static_cast<int64_t>(next()); }
  bool flag() { return next() != 0; }
  /// Refuses another dtype or rank than the op was written for.
  Tensor tensor(DType dtype, int rank);
  Tensor tensor();
  Weight weight();
  /// Every word has been read: both sides agree on the arguments.
  void finish() const;

 private:
  double next();
  [[noreturn]] void refuse(const std::string& why) const;

  const Context& context_;
  const char* op_;
  const double* words_;
  int64_t count_;
  int64_t at_ = 0;
};

using OpBody = void (*)(Context& context, Args& args);

struct OpEntry {
  const char* name;
  OpBody body;
};

/// All ops of the addon, in the order JavaScript knows them by.
std::vector<OpEntry>& opTable();

/// Put one of these at the end of an op's `.cc`: the file registers itself.
struct RegisterOp {
  RegisterOp(const char* name, OpBody body) { opTable().push_back({name, body}); }
};

/// Runs ops given as words `[op, number of argument words, arguments…]`, one after the other.
void runWords(Context& context, const double* words, int64_t count);

int64_t bitsOf(DType dtype);

}  // namespace sluice
