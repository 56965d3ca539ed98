import { tensorBytes } from '../../tensor.ts'
import type { KernelImages } from '../images.ts'
import {
  f32,
  i32,
  i64,
  type Launch,
  type LaunchTarget,
  struct,
  tensorPointer,
  u32,
} from '../launch.ts'
import { pointer } from '../launch.ts'
import type { Tensor } from '../../tensor.ts'
import { sampleModule } from './fake.ts'

const threads = 128

function launch(kernel: string, count: number, args: Launch['args']): Launch {
  const grid = [Math.max(1, Math.ceil(count / threads)), 1, 1] as const
  return { kernel, grid, block: [threads, 1, 1], sharedBytes: 0, args }
}

function floats(tensor: Tensor): number {
  return tensorBytes(tensor) / 4
}

/** to = from · factor + offset. */
function scaled(target: LaunchTarget, [from, to]: [Tensor, Tensor], factor: number): Launch {
  const terms = new Uint8Array(16)
  new DataView(terms.buffer).setFloat64(0, factor - 1, true)
  const count = floats(from)
  return launch('add', count, [
    tensorPointer(target, from),
    tensorPointer(target, from),
    tensorPointer(target, to),
    struct(terms),
    i64(count),
  ])
}

/**
 * Hand-written kernels under the names of ops, for tests of what lies between the two: `copy` goes by
 * way of a room, `draft-join` doubles its streams, `hc-post` writes outside of them.
 */
export async function sampleImages(): Promise<KernelImages> {
  return {
    modules: [await sampleModule()],
    architectures: [{ exact: 90 }],
    formats: { activations: 'f32', keys: 'f32', indexKeys: 'f32', compactRows: true },
    launchers: {
      copy: ({ from, to }, target) => {
        const count = floats(from)
        const room = pointer(target.scratch('half', 4 * count))
        const zero = launch('fill', count, [room, f32(0), u32(count)])
        return [zero, scaled(target, [from, to], 1)]
      },
      'draft-join': ({ streams }, target) => {
        const count = floats(streams)
        return [launch('twice', count, [tensorPointer(target, streams), i32(count)])]
      },
      'hc-post': ({ streams }, target) => {
        return [launch('stray', 1, [tensorPointer(target, streams), i32(floats(streams))])]
      },
      embed: (_, target) => [launch('missing', 1, [pointer(target.counters(1))])],
    },
  }
}
