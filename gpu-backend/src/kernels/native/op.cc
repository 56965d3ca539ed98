#include "op.h"

#include <new>

namespace sluice {

int64_t bitsOf(DType dtype) {
  switch (dtype) {
    case DType::f32:
    case DType::i32:
      return 32;
    case DType::bf16:
      return 16;
    case DType::i64:
      return 64;
    case DType::f8e4m3:
    case DType::e8m0:
    case DType::u8:
      return 8;
    case DType::fp4:
      return 4;
  }
  throw OpError("unsupported_op", "there is no element type " + std::to_string(int(dtype)));
}

int64_t Tensor::count() const {
  int64_t count = 1;
  for (int i = 0; i < rank; i++) count *= shape[i];
  return count;
}

int64_t Tensor::bytes() const { return count() * bitsOf(dtype) / 8; }

double Args::next() {
  if (at_ >= count_) refuse("wants more arguments than the " + std::to_string(count_) + " it got");
  return words_[at_++];
}

Tensor Args::tensor() {
  const Handle handle = integer();
  const int64_t offset = integer();
  Tensor tensor;
  tensor.dtype = static_cast<DType>(integer());
  tensor.rank = static_cast<int>(integer());
  if (tensor.rank < 0 || tensor.rank > rankMax) {
    refuse("has a tensor of rank " + std::to_string(tensor.rank));
  }
  for (int i = 0; i < tensor.rank; i++) tensor.shape[i] = integer();
  tensor.data = context_.buffers.at(handle, offset, tensor.bytes());
  return tensor;
}

Tensor Args::tensor(DType dtype, int rank) {
  const int64_t at = at_;
  const Tensor read = tensor();
  if (read.dtype != dtype || read.rank != rank) {
    refuse("wants type " + std::to_string(int(dtype)) + " and rank " + std::to_string(rank) +
           " at argument word " + std::to_string(at) + ", not type " +
           std::to_string(int(read.dtype)) + " and rank " + std::to_string(read.rank));
  }
  return read;
}

Weight Args::weight() {
  Weight weight;
  weight.codes = tensor();
  if (flag()) weight.scales = tensor().as<const uint8_t>();
  weight.packed = flag();
  return weight;
}

void Args::finish() const {
  if (at_ != count_) {
    refuse("read " + std::to_string(at_) + " of " + std::to_string(count_) + " argument words");
  }
}

void Args::refuse(const std::string& why) const {
  throw OpError("unsupported_op", std::string(op_) + " " + why);
}

std::vector<OpEntry>& opTable() {
  // Inside a function, so that it exists before the first file that registers itself.
  static std::vector<OpEntry> table;
  return table;
}

void runWords(Context& context, const double* words, int64_t count) {
  int64_t at = 0;
  while (at < count) {
    if (count - at < 2) throw OpError("unsupported_op", "the list of ops ends inside an op");
    const int64_t op = static_cast<int64_t>(words[at]);
    const int64_t length = static_cast<int64_t>(words[at + 1]);
    if (op < 0 || op >= static_cast<int64_t>(opTable().size())) {
      throw OpError("unsupported_op", "there is no op " + std::to_string(op));
    }
    if (length < 0 || length > count - at - 2) {
      throw OpError("unsupported_op", "the list of ops ends inside an op");
    }
    const OpEntry& entry = opTable()[op];
    Args args(context, entry.name, words + at + 2, length);
    context.scratch.reset();
    try {
      entry.body(context, args);
    } catch (const OpError& error) {
      throw OpError(error.code(), std::string(entry.name) + ": " + error.what());
    } catch (const std::bad_alloc&) {
      throw OpError("out_of_memory", std::string(entry.name) + ": no memory for intermediates");
    }
    at += 2 + length;
  }
}

}  // namespace sluice
