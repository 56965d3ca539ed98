// What this machine can do at most: the yardsticks that kernels are measured by.
//
//   probe-read  reads a tensor once, all threads, and leaves the XOR of its 64-bit words.
//   probe-dots  integer dot products from registers: `multiplications` int8 products at least;
//               leaves how many it did. Refused where there is no such instruction.

#include <algorithm>

#include "op.h"

#if SLUICE_X86
#include <immintrin.h>
#endif

namespace sluice {
namespace {

constexpr int64_t chunkBytes = int64_t{1} << 20;

SLUICE_INLINE void xorBody(const uint64_t* words, int64_t count, uint64_t* sum) {
  // Four lines at once: one alone would wait for each of its own loads.
  uint64_t lanes[32] = {};
  int64_t at = 0;
  for (; at + 32 <= count; at += 32) {
    for (int i = 0; i < 32; i++) lanes[i] ^= words[at + i];
  }
  uint64_t total = 0;
  for (uint64_t lane : lanes) total ^= lane;
  for (; at < count; at++) total ^= words[at];
  *sum = total;
}

SLUICE_PER_ISA(xorWords, xorBody, (const uint64_t* words, int64_t count, uint64_t* sum),
               (words, count, sum))

void probeRead(Context& context, Args& args) {
  const Tensor tensor = args.tensor(DType::i64, 1);
  const Tensor result = args.tensor(DType::i64, 1);
  args.finish();
  const int64_t count = tensor.count();
  const int64_t each = chunkBytes / 8;
  const int64_t chunks = (count + each - 1) / each;
  uint64_t* sums = context.scratch.take<uint64_t>(chunks);
  // Registers of 256 bits read a little faster than those of 512.
  const Isa isa = std::min(context.isa, Isa::avx2);
  context.pool.parallelFor(chunks, [&](int64_t chunk, int) {
    const int64_t from = chunk * each;
    xorWords(isa)(tensor.as<uint64_t>() + from, std::min(each, count - from), sums + chunk);
  });
  xorWords(Isa::portable)(sums, chunks, result.as<uint64_t>());
}

constexpr int64_t dotRounds = 4096;
constexpr int dotChains = 10;

#if SLUICE_X86
/// One dot product onto one of the chains. Opaque to the compiler, which would fold the constants.
SLUICE_AVX512 inline void dotOnto(__m512i& sum, __m512i codes, __m512i inputs) {
  asm volatile("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "v"(inputs));
}

/// Chains are variables of their own: those of an array would be written back each time.
SLUICE_AVX512 int32_t dots() {
  const __m512i codes = _mm512_set1_epi8(3);
  const __m512i inputs = _mm512_set1_epi8(2);
  __m512i a = _mm512_setzero_si512();
  __m512i b = a, c = a, d = a, e = a, f = a, g = a, h = a, i = a, j = a;
  for (int64_t round = 0; round < dotRounds; round++) {
    dotOnto(a, codes, inputs);
    dotOnto(b, codes, inputs);
    dotOnto(c, codes, inputs);
    dotOnto(d, codes, inputs);
    dotOnto(e, codes, inputs);
    dotOnto(f, codes, inputs);
    dotOnto(g, codes, inputs);
    dotOnto(h, codes, inputs);
    dotOnto(i, codes, inputs);
    dotOnto(j, codes, inputs);
  }
  const __m512i first = _mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d));
  const __m512i second = _mm512_add_epi32(_mm512_add_epi32(e, f), _mm512_add_epi32(g, h));
  return _mm512_reduce_add_epi32(
      _mm512_add_epi32(_mm512_add_epi32(first, second), _mm512_add_epi32(i, j)));
}
#else
int32_t dots() { return 0; }
#endif

void probeDots(Context& context, Args& args) {
  const int64_t multiplications = args.integer();
  const Tensor result = args.tensor(DType::i64, 1);
  args.finish();
  if (context.isa < Isa::avx512) {
    throw OpError("unsupported_op", "this machine has no int8 dot product");
  }
  const int64_t each = dotRounds * dotChains * 64;
  const int64_t chunks = (multiplications + each - 1) / each;
  int32_t* sums = context.scratch.take<int32_t>(context.pool.threads() * 16);
  context.pool.parallelFor(chunks, [&](int64_t, int worker) { sums[worker * 16] = dots(); });
  *result.as<int64_t>() = chunks * each;
}

const RegisterOp registeredRead("probe-read", probeRead);
const RegisterOp registeredDots("probe-dots", probeDots);

}  // namespace
}  // namespace sluice
