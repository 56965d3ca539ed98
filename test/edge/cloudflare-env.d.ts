import type { Env } from '../../edge/src/env.ts'
import type * as Edge from '../../edge/src/index.ts'

type EdgeModule = typeof Edge
type Objects = Pick<Env, 'TENANT' | 'DIRECTORY' | 'POOL'>

declare global {
  namespace Cloudflare {
    interface Env extends Objects {}

    interface GlobalProps {
      mainModule: EdgeModule
    }
  }
}
