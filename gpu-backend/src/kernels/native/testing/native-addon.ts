import { loadNativeAddon, type NativeAddon } from '../addon.ts'
import { ensureNativeAddon } from '../build.ts'

/** The addon built from the present sources, or why this machine has none. */
type NativeForTests = { readonly addon: NativeAddon } | { readonly reason: string }

/**
 * For `describe.skipIf`: a machine without a compiler skips with its reason printed, and
 * `REQUIRE_DEVICE=cpu` turns that into a failure.
 */
export async function nativeForTests(): Promise<NativeForTests> {
  const build = await ensureNativeAddon({ onProgress: (line) => console.log(line) })
  if ('path' in build) return { addon: loadNativeAddon(build.path) }
  if (process.env['REQUIRE_DEVICE'] === 'cpu') throw new Error(build.reason)
  console.warn(`skipped: no native kernels, ${build.reason}`)
  return build
}
