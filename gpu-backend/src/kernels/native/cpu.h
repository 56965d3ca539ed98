#pragma once

#if defined(__x86_64__)
#define SLUICE_X86 1
/// Function-level targets: one object file holds every variant and needs no flags of its own.
#define SLUICE_AVX2 __attribute__((target("avx2,fma,f16c")))
#define SLUICE_AVX512 \
  __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni")))
#define SLUICE_AVX512_BF16                                                                       \
  __attribute__((target(                                                                         \
      "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni,avx512bf16")))
#else
#define SLUICE_X86 0
#endif

namespace sluice {

/// Instruction sets the kernels are written for, weakest first. `avx512` means the set of Ice Lake
/// and Zen 4: F, BW, VL, DQ, VBMI and VNNI; `avx512Bf16` adds the bfloat16 dot product.
enum class Isa : int { portable = 0, avx2 = 1, avx512 = 2, avx512Bf16 = 3 };

inline Isa bestIsa() {
#if SLUICE_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni");
  if (avx2 && avx512) {
    return __builtin_cpu_supports("avx512bf16") ? Isa::avx512Bf16 : Isa::avx512;
  }
  if (avx2) return Isa::avx2;
#endif
  return Isa::portable;
}

inline const char* isaName(Isa isa) {
  switch (isa) {
    case Isa::portable:
      return "portable";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::avx512Bf16:
      return "avx512-bf16";
  }
  return "portable";
}

}  // namespace sluice

/// Defines `name(isa, arguments…)` from `body(arguments…)`, an always-inline function of plain loops:
/// the compiler vectorises one copy of it for each instruction set. The copies give the same bits,
/// since contraction is off and reductions are written out.
#if SLUICE_X86
#define SLUICE_PER_ISA(name, body, PARAMETERS, ARGUMENTS)                    \
  SLUICE_AVX512 static void name##Avx512 PARAMETERS { body ARGUMENTS; }      \
  SLUICE_AVX2 static void name##Avx2 PARAMETERS { body ARGUMENTS; }          \
  static void name##Portable PARAMETERS { body ARGUMENTS; }                  \
  static inline auto name(::sluice::Isa isa) {                               \
    if (isa >= ::sluice::Isa::avx512) return &name##Avx512;                  \
    if (isa >= ::sluice::Isa::avx2) return &name##Avx2;                      \
    return &name##Portable;                                                  \
  }
#else
#define SLUICE_PER_ISA(name, body, PARAMETERS, ARGUMENTS)           \
  static void name##Portable PARAMETERS { body ARGUMENTS; }         \
  static inline auto name(::sluice::Isa) { return &name##Portable; }
#endif

#define SLUICE_INLINE static inline __attribute__((always_inline))
