#pragma once

// What `hopper.h` has on a GPU of sm_90a, on the host: barriers in phases, copies of tiles, and products
// that are not there before they were waited for. It is as late as it may be. A copy's bytes come when
// nothing else can go on, and until then their place is NaN; a product reads shared memory when its
// thread waits for it, and its registers are NaN until then. So whoever reads or overwrites too early
// gets NaN, or is told. Sums are cut as narrow as Hopper's are said to be.

#include <cstdint>

namespace simt {

/// One thread's part of D[64][columns] (+)= A·Bᵀ over 32 columns of e4m3.
struct Product {
  float* d;
  int columns;
  /// A's descriptor, or where there are any this thread's four words of it.
  uint64_t a;
  const uint32_t* registers;
  uint64_t b;
  bool keep;
};

/// As kernels see it: not where the block's shared memory lies, but at a multiple of 128 from 1,152 on.
uint32_t sharedAddress(const void* at);

void phaseBegin(uint32_t at, uint32_t arrivals);
void phaseFence();
void phaseArrive(uint32_t at, uint32_t bytes);
void phaseWait(uint32_t at, uint32_t parity);

void copyTile(uint32_t into, const uint64_t* map, int column, int row, uint32_t barrier);

void productFence();
void productBegin(const Product& product);
void productCommit();
void productWait();

// For the scheduler: before a block, when none of its threads can go on, and behind it.

void beginAsync(int threads);
/// Lets the bytes of the copy begun first come; false where there is none.
bool finishCopy();
void endAsync();

/// Lets other threads run until `ready` says so.
void waitUntil(bool (*ready)(uint32_t at, uint32_t parity), uint32_t at, uint32_t parity);
/// Lets all others run that can.
void giveWayOnce();
/// How often the block's threads have all met at its barrier.
extern int barriersPassed;
extern uint32_t sharedBytes;

}  // namespace simt
