// experts: y = Σ over a row's experts of down · (silu(gate·v)·(up·v)·w), plus the shared expert
// (`experts.ts`). Rows are gathered by expert, so that each weight that is needed is read once
// whatever the number of rows, and all experts' products run side by side: a decode step is four
// passes of the pool, however many experts take part.
//
// Order of the sum, the same for every batch: a row's experts as they were picked, the shared one
// last, in double. Where several devices share the experts nothing is added up here: each place's
// result goes where `expert-sum` finds it.

#include <algorithm>
#include <vector>

#include "../native/elementary.h"
#include "../native/matmul/matmul.h"
#include "../native/rows.h"

namespace sluice {
namespace {

/// Input rows taken together: bounds the intermediates (about 200 MB at Flash's sizes).
constexpr int64_t rowsMax = 1024;

struct ExpertWeights {
  Weight gate;
  Weight up;
  Weight down;
};

ExpertWeights readWeights(Args& args) {
  ExpertWeights weights;
  weights.gate = args.weight();
  weights.up = args.weight();
  weights.down = args.weight();
  return weights;
}

struct Experts {
  Tensor input;
  const int32_t* picks;
  const float* weights;
  int64_t picked;
  ExpertWeights routed;
  ExpertWeights shared;
  float limit;
  bool quantise;
  /// `[own rows, hidden]`: sums, or of a part what the shared expert makes of rows `firstRow …`.
  Tensor output;
  bool isPart = false;
  int64_t firstExpert = 0;
  int64_t firstRow = 0;
  /// Of a part: `[rows, picked, hidden]`.
  float* results = nullptr;

  bool hasExpert(int64_t expert) const {
    return expert >= firstExpert && expert < firstExpert + routed.gate.codes.shape[0];
  }
  bool isOwn(int64_t row) const { return row >= firstRow && row < firstRow + output.shape[0]; }
};

/// One expert and the rows that meet it, with their results from `first` on.
struct Group {
  Matrix gate;
  Matrix up;
  Matrix down;
  /// Rows of the input, and what each is weighed with.
  std::vector<int64_t> rows;
  std::vector<float> weights;
  /// `[rows, width]`; `gated` becomes what meets `down`.
  float* gated;
  float* upped;
  /// `[rows, hidden]`.
  float* results;
  Inputs gateInputs;
  Inputs upInputs;
  Inputs downInputs;
};

/// Where a row's parts lie: `[row][picked + 1]`, the shared expert's last.
using Parts = std::vector<const float*>;

/// Groups of the rows `first … end − 1`, by expert, the shared expert first: its chunks are the
/// largest and should not be what everyone waits for.
std::vector<Group> groupRows(const Experts& op, int64_t first, int64_t end) {
  const int64_t count = op.routed.gate.codes.shape[0];
  std::vector<int64_t> groupOf(count, -1);
  std::vector<Group> groups(1);
  groups[0].gate = matrixOf(op.shared.gate);
  groups[0].up = matrixOf(op.shared.up);
  groups[0].down = matrixOf(op.shared.down);
  for (int64_t row = first; row < end; row++) {
    if (op.isOwn(row)) {
      groups[0].rows.push_back(row);
      groups[0].weights.push_back(1.0f);
    }
    for (int64_t slot = row * op.picked; slot < (row + 1) * op.picked; slot++) {
      if (!op.hasExpert(op.picks[slot])) continue;
      const int64_t expert = op.picks[slot] - op.firstExpert;
      if (groupOf[expert] < 0) {
        groupOf[expert] = static_cast<int64_t>(groups.size());
        Group& made = groups.emplace_back();
        made.gate = stackMatrix(op.routed.gate, expert);
        made.up = stackMatrix(op.routed.up, expert);
        made.down = stackMatrix(op.routed.down, expert);
      }
      Group& group = groups[groupOf[expert]];
      group.rows.push_back(row);
      group.weights.push_back(op.weights[slot]);
    }
  }
  return groups;
}

/// Takes room for a group's intermediates. `gate` and `up` share inputs of one form.
void planGroup(Context& context, const Experts& op, Group& group) {
  const int64_t rows = static_cast<int64_t>(group.rows.size());
  const auto plan = [&](const Matrix& matrix) {
    const bool rounds = matrix.dtype == DType::f8e4m3 || matrix.dtype == DType::fp4;
    const bool quantise = op.quantise && rounds;
    const InputKind kind = inputKind(context, matrix.dtype, quantise);
    return planInputs(context, kind, quantise, rows, matrix.width);
  };
  group.gateInputs = plan(group.gate);
  group.upInputs = group.up.dtype == group.gate.dtype ? group.gateInputs : plan(group.up);
  group.downInputs = plan(group.down);
  group.gated = context.scratch.take<float>(rows * group.gate.rows);
  group.upped = context.scratch.take<float>(rows * group.gate.rows);
  group.results = context.scratch.take<float>(rows * group.down.rows);
}

/// One piece of work of one group: some columns of one tile.
struct Piece {
  Group* group;
  const Inputs* inputs;
  int64_t tile;
  int64_t from;
  int64_t count;
};

void addPieces(std::vector<Piece>& pieces, Group& group, const Inputs& inputs) {
  for (int64_t tile = 0; tile < inputs.tileCount; tile++) {
    for (int64_t from = 0; from < inputs.panelWidth; from += segmentWidth) {
      const int64_t count = std::min(segmentWidth, inputs.panelWidth - from);
      pieces.push_back({&group, &inputs, tile, from, count});
    }
  }
}

/// Writes down the input rows of every group.
void fillInputs(Context& context, const Experts& op, std::vector<Group>& groups) {
  std::vector<Piece> pieces;
  for (Group& group : groups) {
    addPieces(pieces, group, group.gateInputs);
    if (group.up.dtype != group.gate.dtype) addPieces(pieces, group, group.upInputs);
  }
  const float* input = op.input.as<const float>();
  const int64_t hidden = op.input.shape[1];
  context.pool.parallelFor(static_cast<int64_t>(pieces.size()), [&](int64_t index, int) {
    const Piece& piece = pieces[index];
    const float* rows[tileRowsMax];
    for (int m = 0; m < piece.inputs->tiles[piece.tile].rows; m++) {
      rows[m] = input + piece.group->rows[piece.tile * tileRowsMax + m] * hidden;
    }
    fillTile(context.isa, *piece.inputs, piece.tile, rows, piece.from, piece.count);
  });
}

/// gated = silu(min(gated, limit))·clamp(upped, ±limit)·weight. Comparisons keep NaN.
SLUICE_INLINE void activateBody(float* gated, const float* upped, int64_t count, float limit,
                                float weight) {
  for (int64_t i = 0; i < count; i++) {
    const float g = gated[i] > limit ? limit : gated[i];
    const float low = upped[i] < -limit ? -limit : upped[i];
    const float u = low > limit ? limit : low;
    gated[i] = siluOf(g) * u * weight;
  }
}

SLUICE_PER_ISA(activate, activateBody,
               (float* gated, const float* upped, int64_t count, float limit, float weight),
               (gated, upped, count, limit, weight))

/// What each group's `down` reads: activated in place, then written down.
void fillHidden(Context& context, const Experts& op, std::vector<Group>& groups) {
  std::vector<Piece> pieces;
  for (Group& group : groups) addPieces(pieces, group, group.downInputs);
  context.pool.parallelFor(static_cast<int64_t>(pieces.size()), [&](int64_t index, int) {
    const Piece& piece = pieces[index];
    const Group& group = *piece.group;
    const int64_t width = group.gate.rows;
    const int64_t count = std::min(piece.count, width - piece.from);
    const float* rows[tileRowsMax];
    for (int m = 0; m < piece.inputs->tiles[piece.tile].rows; m++) {
      const int64_t row = piece.tile * tileRowsMax + m;
      rows[m] = group.gated + row * width;
      const int64_t at = row * width + piece.from;
      activate(context.isa)(group.gated + at, group.upped + at, count, op.limit,
                            group.weights[row]);
    }
    fillTile(context.isa, *piece.inputs, piece.tile, rows, piece.from, piece.count);
  });
}

void project(Context& context, std::vector<Group>& groups) {
  std::vector<Product> products;
  for (Group& group : groups) {
    products.push_back({group.gate, &group.gateInputs, group.gated, group.gate.rows});
    products.push_back({group.up, &group.upInputs, group.upped, group.gate.rows});
  }
  runProducts(context, products);
}

void projectBack(Context& context, std::vector<Group>& groups) {
  std::vector<Product> products;
  for (Group& group : groups) {
    products.push_back({group.down, &group.downInputs, group.results, group.down.rows});
  }
  runProducts(context, products);
}

/// Finds each row's results again: groups list rows in ascending order, and a row's picks in theirs.
/// Null where another device has the expert or the row.
Parts partsOf(const Experts& op, const std::vector<Group>& groups, int64_t first, int64_t end) {
  const int64_t each = op.picked + 1;
  Parts parts((end - first) * each, nullptr);
  std::vector<int64_t> groupOf(op.routed.gate.codes.shape[0], -1);
  std::vector<int64_t> taken(groups.size(), 0);
  int64_t found = 1;
  for (int64_t row = first; row < end; row++) {
    const float** own = parts.data() + (row - first) * each;
    const auto take = [&](int64_t group) {
      return groups[group].results + taken[group]++ * groups[group].down.rows;
    };
    for (int64_t i = 0; i < op.picked; i++) {
      const int64_t pick = op.picks[row * op.picked + i];
      if (!op.hasExpert(pick)) continue;
      int64_t& group = groupOf[pick - op.firstExpert];
      if (group < 0) group = found++;
      own[i] = take(group);
    }
    if (op.isOwn(row)) own[op.picked] = take(0);
  }
  return parts;
}

SLUICE_INLINE void sumBody(const float* const* parts, int64_t count, int64_t from, int64_t to,
                           float* into) {
  for (int64_t at = from; at < to; at++) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += parts[i][at];
    into[at] = static_cast<float>(sum);
  }
}

SLUICE_PER_ISA(sum, sumBody,
               (const float* const* parts, int64_t count, int64_t from, int64_t to, float* into),
               (parts, count, from, to, into))

/// Each result to its place.
void storeParts(Context& context, const Experts& op, const Parts& parts, int64_t first, int64_t end) {
  const int64_t hidden = op.output.shape[1];
  const int64_t each = op.picked + 1;
  context.pool.parallelFor((end - first) * each, [&](int64_t index, int) {
    const float* from = parts[index];
    if (from == nullptr) return;
    const int64_t row = first + index / each;
    const int64_t slot = index % each;
    float* to = slot == op.picked ? op.output.as<float>() + (row - op.firstRow) * hidden
                                  : op.results + (row * op.picked + slot) * hidden;
    std::copy(from, from + hidden, to);
  });
}

void runRows(Context& context, const Experts& op, int64_t first, int64_t end) {
  std::vector<Group> groups = groupRows(op, first, end);
  for (Group& group : groups) planGroup(context, op, group);
  fillInputs(context, op, groups);
  project(context, groups);
  fillHidden(context, op, groups);
  projectBack(context, groups);
  const int64_t hidden = op.output.shape[1];
  const Parts parts = partsOf(op, groups, first, end);
  if (op.isPart) return storeParts(context, op, parts, first, end);
  float* output = op.output.as<float>() + first * hidden;
  overRows(context.pool, end - first, hidden, op.picked + 1,
           [&](int64_t row, int64_t from, int64_t to, int) {
             sum(context.isa)(parts.data() + row * (op.picked + 1), op.picked + 1, from, to,
                              output + row * hidden);
           });
}

void experts(Context& context, Args& args) {
  Experts op;
  op.input = args.tensor(DType::f32, 2);
  const Tensor picks = args.tensor(DType::i32, 2);
  op.weights = args.tensor(DType::f32, 2).as<const float>();
  op.routed = readWeights(args);
  op.shared = readWeights(args);
  op.limit = static_cast<float>(args.number());
  op.quantise = args.flag();
  op.output = args.tensor(DType::f32, 2);
  op.isPart = args.flag();
  if (op.isPart) {
    op.firstExpert = args.integer();
    op.firstRow = args.integer();
    op.results = args.tensor(DType::f32, 3).as<float>();
  }
  args.finish();
  op.picked = picks.shape[1];
  op.picks = op.isPart ? picks.as<const int32_t>()
                       : indicesBelow(picks, op.routed.gate.codes.shape[0], "expert");
  const int64_t rows = op.input.shape[0];
  for (int64_t first = 0; first < rows; first += rowsMax) {
    if (first > 0) context.scratch.reset();
    runRows(context, op, first, std::min(rows, first + rowsMax));
  }
}

const RegisterOp registered("experts", experts);

}  // namespace
}  // namespace sluice
