import type { Env } from '../../edge/src/env.ts'
import type * as Edge from '../../edge/src/index.ts'

type EdgeModule = typeof Edge
type Bindings = Pick<Env, 'TENANT' | 'DIRECTORY' | 'POOL' | 'FLOOD_BY_ADDRESS' | 'FLOOD_BY_KEY'>

declare global {
  namespace Cloudflare {
    interface Env extends Bindings {}

    interface GlobalProps {
      mainModule: EdgeModule
    }
  }
}
