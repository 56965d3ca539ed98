import type { Hono } from 'hono'
import { ApiError } from '#protocol/errors.ts'
import { z } from 'zod'
import type { AppContext, AppDeps, AppEnv } from '../../context.ts'
import { reachObject, refuseMethod } from '../../failures.ts'
import { DEFAULT_PROJECT, isProjectId, ROUTE_SCOPES } from '../../keys/access.ts'
import { formatApiKey, hashSecret, lastFour, newApiKey } from '../../keys/api-key.ts'
import { tenantObject } from '../../objects/stubs.ts'
import { KEYS_MAX, PROJECTS_MAX } from '../../objects/tenant/keys-table.ts'
import type { KeySummary } from '../../objects/tenant/keys-table.ts'
import {
  nameField,
  noSuchTenant,
  readJson,
  tenantParam,
  toUnixSeconds,
  toUnixSecondsOrNull,
} from './door.ts'

const OVERLAP_SECONDS_DEFAULT = 86_400
const OVERLAP_SECONDS_MAX = 90 * 86_400

const projectField = z.string().refine(isProjectId, 'must be 1 to 64 of a-z, 0-9, - and _')

const keySchema = z.object({
  name: nameField,
  project: projectField.default(DEFAULT_PROJECT),
  models: z.array(z.string().min(1).max(256)).min(1).max(64).nullable().default(null),
  routes: z.array(z.enum(ROUTE_SCOPES)).min(1).nullable().default(null),
  /** Unix seconds. */
  expires_at: z.int().min(1).nullable().default(null),
})

const rotationSchema = z.object({
  overlap_seconds: z.int().min(0).max(OVERLAP_SECONDS_MAX).default(OVERLAP_SECONDS_DEFAULT),
})

const projectSchema = z.object({ project: projectField, name: nameField })

/** A tenant's keys: made, rotated with overlap, revoked; and the projects they belong to. */
export function addKeyRoutes(routes: Hono<AppEnv>, deps: AppDeps): void {
  const keys = '/tenants/:tenant/keys'
  routes.post(keys, async (c) => c.json(await createKey(c, deps), 201))
  routes.get(keys, async (c) => c.json(await listKeys(c, deps)))
  routes.all(keys, refuseMethod('GET, POST'))
  routes.delete(`${keys}/:key`, async (c) => c.json(await revokeKey(c, deps)))
  routes.all(`${keys}/:key`, refuseMethod('DELETE'))
  routes.post(`${keys}/:key/rotate`, async (c) => c.json(await rotateKey(c, deps), 201))
  routes.all(`${keys}/:key/rotate`, refuseMethod('POST'))

  const projects = '/tenants/:tenant/projects'
  routes.post(projects, async (c) => c.json(await createProject(c, deps), 201))
  routes.get(projects, async (c) => c.json(await listProjects(c, deps)))
  routes.all(projects, refuseMethod('GET, POST'))
}

/** One of the two answers that ever hold a whole key; rotation's is the other. */
async function createKey(c: AppContext, deps: AppDeps) {
  const wanted = await readJson(c.req.raw, keySchema)
  const tenantId = tenantParam(c)
  const createdAtMs = deps.now()
  const expiresAtMs = wanted.expires_at === null ? null : wanted.expires_at * 1000
  if (expiresAtMs !== null && expiresAtMs <= createdAtMs) {
    throw new ApiError('invalid_parameter', "'expires_at' is past.", { param: 'expires_at' })
  }
  const key = newApiKey(tenantId, deps.randomBytes)
  const text = formatApiKey(key)
  const status = await reachObject(
    tenantObject(c.env, tenantId).createKey({
      keyId: key.keyId,
      name: wanted.name,
      secretHash: await hashSecret(key.secret),
      lastFour: lastFour(text),
      access: { projectId: wanted.project, models: wanted.models, routes: wanted.routes },
      createdAtMs,
      expiresAtMs,
    }),
    deps,
  )
  if (status === 'tenant_unknown') throw noSuchTenant()
  if (status === 'too_many_keys') throw tooManyKeys()
  if (status === 'project_unknown') {
    throw new ApiError('invalid_parameter', 'There is no such project.', { param: 'project' })
  }
  if (status === 'exists') throw new Error('key id drawn twice')
  return {
    key: text,
    key_id: key.keyId,
    name: wanted.name,
    created_at: toUnixSeconds(createdAtMs),
  }
}

async function listKeys(c: AppContext, deps: AppDeps) {
  const keys = await reachObject(tenantObject(c.env, tenantParam(c)).listKeys(), deps)
  if (keys === null) throw noSuchTenant()
  return { object: 'list', data: keys.map(viewKey) }
}

/** Revoking twice is no error and keeps the first time. */
async function revokeKey(c: AppContext, deps: AppDeps) {
  const keyId = c.req.param('key') ?? ''
  const revoking = tenantObject(c.env, tenantParam(c)).revokeKey(keyId, deps.now())
  const revokedAtMs = await reachObject(revoking, deps)
  if (revokedAtMs === null) throw noSuchKey()
  return { key_id: keyId, revoked_at: toUnixSeconds(revokedAtMs) }
}

async function rotateKey(c: AppContext, deps: AppDeps) {
  const { overlap_seconds: overlapSeconds } = await readJson(c.req.raw, rotationSchema)
  const tenantId = tenantParam(c)
  const oldKeyId = c.req.param('key') ?? ''
  const key = newApiKey(tenantId, deps.randomBytes)
  const text = formatApiKey(key)
  const nowMs = deps.now()
  const rotating = tenantObject(c.env, tenantId).rotateKey({
    oldKeyId,
    keyId: key.keyId,
    secretHash: await hashSecret(key.secret),
    lastFour: lastFour(text),
    nowMs,
    overlapMs: overlapSeconds * 1000,
  })
  const status = await reachObject(rotating, deps)
  if (status === 'too_many_keys') throw tooManyKeys()
  if (status === 'key_unknown') throw noSuchKey()
  if (status === 'key_ended') {
    throw new ApiError('invalid_parameter', 'The key has been revoked or has expired.')
  }
  return {
    key: text,
    key_id: key.keyId,
    replaces: oldKeyId,
    overlap_ends_at: toUnixSeconds(nowMs + overlapSeconds * 1000),
  }
}

async function createProject(c: AppContext, deps: AppDeps) {
  const { project: projectId, name } = await readJson(c.req.raw, projectSchema)
  const createdAtMs = deps.now()
  const creating = tenantObject(c.env, tenantParam(c)).createProject({
    projectId,
    name,
    createdAtMs,
  })
  const status = await reachObject(creating, deps)
  if (status === 'tenant_unknown') throw noSuchTenant()
  if (status === 'too_many_projects') {
    throw new ApiError('invalid_parameter', `A tenant has at most ${PROJECTS_MAX} projects.`)
  }
  if (status === 'exists' || projectId === DEFAULT_PROJECT) {
    throw new ApiError('invalid_parameter', 'There is such a project.', { param: 'project' })
  }
  return { project: projectId, name, created_at: toUnixSeconds(createdAtMs) }
}

async function listProjects(c: AppContext, deps: AppDeps) {
  const projects = await reachObject(tenantObject(c.env, tenantParam(c)).listProjects(), deps)
  if (projects === null) throw noSuchTenant()
  const data = projects.map(({ projectId, name, createdAtMs }) => ({
    project: projectId,
    name,
    created_at: toUnixSeconds(createdAtMs),
  }))
  return { object: 'list', data }
}

function tooManyKeys(): ApiError {
  return new ApiError('invalid_parameter', `A tenant has at most ${KEYS_MAX} keys.`)
}

function noSuchKey(): ApiError {
  return new ApiError('not_found', 'There is no such key.')
}

function viewKey(key: KeySummary) {
  const { projectId, models, routes } = key.access
  return {
    key_id: key.keyId,
    name: key.name,
    last_four: key.lastFour,
    project: projectId,
    models,
    routes,
    created_at: toUnixSeconds(key.createdAtMs),
    expires_at: toUnixSecondsOrNull(key.expiresAtMs),
    revoked_at: toUnixSecondsOrNull(key.revokedAtMs),
    last_used_at: toUnixSecondsOrNull(key.lastUsedAtMs),
  }
}
