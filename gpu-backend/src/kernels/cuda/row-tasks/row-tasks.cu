// What is done to a step's rows between its projections and its attention: `query-rotate`, `index-query`
// and `compress`, any of them or several in one launch. Each is small, none needs another's results, and
// launches are what a decode step waits for. Blocks of all tasks lie one after the other in the grid.

#include "../../compress/compress.h"
#include "../../index-query/index-query.h"
#include "../../query-rotate/query-rotate.h"

namespace sluice {
namespace {

constexpr int tasksMax = 4;

enum class TaskKind : int { queryRotate, indexQuery, compress };

struct RowTask {
  TaskKind kind;
  /// The first of its blocks in the grid.
  int firstBlock;
  union {
    QueryRotateArgs queryRotate;
    IndexQueryArgs indexQuery;
    CompressArgs compress;
  };
};

struct RowTasksArgs {
  RowTask tasks[tasksMax];
  int count;
  int reserved;
};

}  // namespace

SLUICE_KERNEL(row_tasks, RowTasksArgs, 256, 2) {
  SLUICE_DYNAMIC_SHARED(shared);
  int number = 0;
  while (number + 1 < args.count &&
         args.tasks[number + 1].firstBlock <= static_cast<int>(blockIdx.x)) {
    number++;
  }
  const RowTask& task = args.tasks[number];
  const int block = static_cast<int>(blockIdx.x) - task.firstBlock;
  switch (task.kind) {
    case TaskKind::queryRotate: rotateQueries(task.queryRotate, block, shared); break;
    case TaskKind::indexQuery: prepareIndexQueries(task.indexQuery, block, shared); break;
    case TaskKind::compress: compressRow(task.compress, block, shared); break;
  }
}

}  // namespace sluice
