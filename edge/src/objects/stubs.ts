import type { Env } from '../env.ts'
import { DIRECTORY_NAME } from './directory/directory.ts'
import type { Directory } from './directory/directory.ts'
import type { Pool } from './pool/pool.ts'
import type { Tenant } from './tenant/tenant.ts'

export function tenantObject(env: Env, tenantId: string): DurableObjectStub<Tenant> {
  return env.TENANT.get(env.TENANT.idFromName(tenantId))
}

export function directoryObject(env: Env): DurableObjectStub<Directory> {
  return env.DIRECTORY.get(env.DIRECTORY.idFromName(DIRECTORY_NAME))
}

export function poolObject(env: Env, poolId: string): DurableObjectStub<Pool> {
  return env.POOL.get(env.POOL.idFromName(poolId))
}
