import { ApiError } from '#protocol/errors.ts'
import { z } from 'zod'
import type { AppContext } from '../../context.ts'
import { isTenantId } from '../../keys/api-key.ts'
import { parseJsonBytes, readBody } from '../../request-body.ts'

const BODY_BYTES_MAX = 64 * 1024
const PAGE_DEFAULT = 100
const PAGE_MAX = 1000

export const nameField = z
  .string("'name' must be a string of 1 to 200 characters")
  .trim()
  .min(1, "'name' must be a string of 1 to 200 characters")
  .max(200, "'name' must be a string of 1 to 200 characters")

/** The request's JSON body as `schema` wants it; a 400 that names the first field at fault. */
export async function readJson<T>(request: Request, schema: z.ZodType<T>): Promise<T> {
  const parsed = schema.safeParse(parseJsonBytes(await readBody(request, BODY_BYTES_MAX)))
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]
  const param = issue?.path.map(String).join('.') ?? ''
  const message = `${param === '' ? 'The body' : `'${param}'`}: ${issue?.message ?? 'is invalid'}.`
  throw new ApiError('invalid_request_error', message, param === '' ? {} : { param })
}

export function tenantParam(c: AppContext): string {
  const tenantId = c.req.param('tenant') ?? ''
  if (!isTenantId(tenantId)) throw noSuchTenant()
  return tenantId
}

export function noSuchTenant(): ApiError {
  return new ApiError('not_found', 'There is no such tenant.')
}

export function parseLimit(text: string | undefined): number {
  if (text === undefined) return PAGE_DEFAULT
  const limit = /^\d{1,4}$/.test(text) ? Number(text) : 0
  if (limit >= 1 && limit <= PAGE_MAX) return limit
  const message = `'limit' must be a whole number from 1 to ${PAGE_MAX}.`
  throw new ApiError('invalid_parameter', message, { param: 'limit' })
}

export function toUnixSeconds(unixMs: number): number {
  return Math.floor(unixMs / 1000)
}

export function toUnixSecondsOrNull(unixMs: number | null): number | null {
  return unixMs === null ? null : toUnixSeconds(unixMs)
}
