import { ensureNativeAddon } from '../../gpu-backend/src/kernels/native/build.ts'

/** Before any test: compiles the native kernels where their sources have changed, and says so. */
export async function setup(): Promise<void> {
  const built = await ensureNativeAddon({ onProgress: (line) => console.log(line) })
  if ('reason' in built) console.warn(`no native kernels: ${built.reason}`)
}
