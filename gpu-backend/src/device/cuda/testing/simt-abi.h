#pragma once

// What the fake driver and a library of kernels built for the host agree on. For every kernel
// `extern "C" __global__ void name(A, B, …)` the library exports
//
//   const SluiceSimtParams sluice_simt_name_params;        sizes of A, B, …, as the driver copies them
//   void sluice_simt_name(const SluiceSimtLaunch* launch);  runs the whole grid on the calling thread
//
// The run may be left half-way (siglongjmp out of a fault's handler) and must be able to start anew
// afterwards. Its memory is the process's own: the pointers it is given lie in the fake's memory.

#include <stdint.h>

#define SLUICE_SIMT_PARAMS_MAX 64

#ifdef __cplusplus
extern "C" {
#endif

typedef struct SluiceSimtParams {
  uint32_t count;
  uint32_t bytes[SLUICE_SIMT_PARAMS_MAX];
  /* Shared memory the kernel declares itself, and threads a block at most (launch bounds; 0: 1024). */
  uint32_t staticSharedBytes;
  uint32_t threadsMax;
} SluiceSimtParams;

typedef struct SluiceSimtLaunch {
  uint32_t grid[3];
  uint32_t block[3];
  uint32_t sharedBytes;
  /* Address of each parameter's bytes. */
  void** params;
} SluiceSimtLaunch;

#ifdef __cplusplus
}
#endif
