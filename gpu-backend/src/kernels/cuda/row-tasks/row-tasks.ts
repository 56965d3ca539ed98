import type { DevicePointer, Launch, LaunchTarget } from '../../../device/cuda/launch.ts'
import { type Tensor, tensorBytes } from '../../../device/tensor.ts'

/** By the numbers of `row-tasks.cu`. */
const kinds = { 'query-rotate': 0, 'index-query': 1, compress: 2 } as const

/** Tasks a launch holds, and the room each has for its arguments. */
const tasksMax = 4
const argumentBytes = 192
const headBytes = 8
const threads = 256

interface MemoryRange {
  readonly from: DevicePointer
  readonly to: DevicePointer
}

/** One op's share of a launch of `row_tasks`. */
interface RowTask {
  readonly kind: keyof typeof kinds
  readonly blocks: number
  readonly sharedBytes: number
  readonly args: Uint8Array
  readonly reads: readonly MemoryRange[]
  readonly writes: readonly MemoryRange[]
}

interface RowTasksLaunch extends Launch {
  readonly tasks: readonly RowTask[]
}

/** A task alone, which joins with tasks that follow it as long as neither touches what the other writes. */
export function rowTask(
  task: Omit<RowTask, 'reads' | 'writes'> & {
    readonly reads: readonly Tensor[]
    readonly writes: readonly Tensor[]
  },
  target: LaunchTarget,
): Launch {
  const range = (tensor: Tensor): MemoryRange => {
    const from = target.address(tensor)
    return { from, to: from + BigInt(tensorBytes(tensor)) }
  }
  return together([{ ...task, reads: task.reads.map(range), writes: task.writes.map(range) }])
}

function together(tasks: readonly RowTask[]): RowTasksLaunch {
  return {
    kernel: 'row_tasks',
    grid: [tasks.reduce((sum, { blocks }) => sum + blocks, 0), 1, 1],
    block: [threads, 1, 1],
    sharedBytes: Math.max(...tasks.map(({ sharedBytes }) => sharedBytes)),
    args: [{ as: 'struct', value: structOf(tasks) }],
    tasks,
    join: (next) => {
      if (!isRowTasks(next) || tasks.length + next.tasks.length > tasksMax) return null
      const free = tasks.every((task) => next.tasks.every((other) => areApart(task, other)))
      return free ? together([...tasks, ...next.tasks]) : null
    },
  }
}

function isRowTasks(launch: Launch): launch is RowTasksLaunch {
  return 'tasks' in launch
}

function areApart(a: RowTask, b: RowTask): boolean {
  const meet = (some: readonly MemoryRange[], others: readonly MemoryRange[]): boolean =>
    some.some(({ from, to }) => others.some((other) => from < other.to && other.from < to))
  return !meet(a.writes, [...b.reads, ...b.writes]) && !meet(a.reads, b.writes)
}

function structOf(tasks: readonly RowTask[]): Uint8Array {
  const each = headBytes + argumentBytes
  const bytes = new Uint8Array(tasksMax * each + headBytes)
  const view = new DataView(bytes.buffer)
  let block = 0
  for (const [index, { kind, blocks, args }] of tasks.entries()) {
    view.setInt32(index * each, kinds[kind], true)
    view.setInt32(index * each + 4, block, true)
    bytes.set(args, index * each + headBytes)
    block += blocks
  }
  view.setInt32(tasksMax * each, tasks.length, true)
  return bytes
}
