import { equalInConstantTime } from '../../bytes.ts'
import { DEFAULT_PROJECT } from '../../keys/access.ts'
import type { Access, RouteScope } from '../../keys/access.ts'

/** Revoked ones and identities included, since their rows stay. */
export const KEYS_MAX = 1000
export const PROJECTS_MAX = 1000

export interface KeySummary {
  readonly keyId: string
  readonly name: string
  /** Of an identity, which has no secret, empty. */
  readonly lastFour: string
  readonly access: Access
  readonly createdAtMs: number
  readonly expiresAtMs: number | null
  readonly revokedAtMs: number | null
  readonly lastUsedAtMs: number | null
}

export interface NewKey {
  readonly keyId: string
  readonly name: string
  readonly secretHash: Uint8Array
  readonly lastFour: string
  readonly access: Access
  readonly createdAtMs: number
  readonly expiresAtMs: number | null
}

export interface Rotation {
  readonly oldKeyId: string
  readonly keyId: string
  readonly secretHash: Uint8Array
  readonly lastFour: string
  readonly nowMs: number
  /** How long the old key goes on working beside the new one. */
  readonly overlapMs: number
}

export interface NewIdentity {
  readonly keyId: string
  readonly name: string
  readonly access: Access
}

export interface NewProject {
  readonly projectId: string
  readonly name: string
  readonly createdAtMs: number
}

export type CreateKeyStatus = 'created' | 'exists' | 'project_unknown' | 'too_many_keys'
export type RotateStatus = 'rotated' | 'key_unknown' | 'key_ended' | 'too_many_keys'
export type CreateProjectStatus = 'created' | 'exists' | 'too_many_projects'

export type VerifiedKey =
  | { readonly status: 'valid'; readonly access: Access; readonly expiresAtMs: number | null }
  | { readonly status: 'unknown' | 'revoked' | 'expired' }

/** Compared against when there is no such key, so that a miss takes the steps of a hit. */
const NO_HASH = new Uint8Array(32)
/** `last_used_at_ms` is written no more often than this. */
const LAST_USED_STEP_MS = 60_000

interface KeyColumns extends Record<string, SqlStorageValue> {
  readonly key_id: string
  readonly name: string
  readonly kind: 'secret' | 'identity'
  readonly secret_hash: ArrayBuffer
  readonly last_four: string
  readonly project_id: string
  readonly models: string | null
  readonly routes: string | null
  readonly created_at_ms: number
  readonly expires_at_ms: number | null
  readonly revoked_at_ms: number | null
  readonly last_used_at_ms: number | null
}

/** A tenant's keys and projects, inside whatever transaction its caller has open. */
export class KeysTable {
  readonly #sql: SqlStorage

  constructor(sql: SqlStorage) {
    this.#sql = sql
  }

  create(key: NewKey): CreateKeyStatus {
    if (this.#count('keys') >= KEYS_MAX) return 'too_many_keys'
    if (!this.hasProject(key.access.projectId)) return 'project_unknown'
    return this.#insert(key, 'secret') ? 'created' : 'exists'
  }

  /** A new key with all the old one has, which then ends after the overlap or when it would have. */
  rotate(rotation: Rotation): RotateStatus {
    const old = this.#find(rotation.oldKeyId)
    if (old?.kind !== 'secret') return 'key_unknown'
    if (endOf(old, rotation.nowMs) !== null) return 'key_ended'
    if (this.#count('keys') >= KEYS_MAX) return 'too_many_keys'
    const { keyId, secretHash, lastFour, nowMs } = rotation
    const made = this.#insert(
      {
        keyId,
        secretHash,
        lastFour,
        name: old.name,
        access: accessOf(old),
        createdAtMs: nowMs,
        expiresAtMs: old.expires_at_ms,
      },
      'secret',
    )
    if (!made) throw new Error('key id drawn twice')
    this.#sql.exec(
      `UPDATE keys SET expires_at_ms = min(coalesce(expires_at_ms, ?1), ?1) WHERE key_id = ?2`,
      nowMs + rotation.overlapMs,
      rotation.oldKeyId,
    )
    return 'rotated'
  }

  /** When the key was revoked, now or earlier; null when there is no such key. */
  revoke(keyId: string, nowMs: number): number | null {
    const [row] = this.#sql
      .exec<{ revoked_at_ms: number }>(
        `UPDATE keys SET revoked_at_ms = coalesce(revoked_at_ms, ?) WHERE key_id = ?
         RETURNING revoked_at_ms`,
        nowMs,
        keyId,
      )
      .toArray()
    return row?.revoked_at_ms ?? null
  }

  /** All keys in the order they were made. */
  list(): KeySummary[] {
    return this.#sql
      .exec<KeyColumns>('SELECT * FROM keys ORDER BY created_at_ms, key_id')
      .toArray()
      .map(toSummary)
  }

  verify(keyId: string, secretHash: Uint8Array, nowMs: number): VerifiedKey {
    const row = this.#find(keyId)
    const stored = row?.kind === 'secret' ? new Uint8Array(row.secret_hash) : NO_HASH
    const matches = equalInConstantTime(stored, secretHash)
    if (row?.kind !== 'secret' || !matches) return { status: 'unknown' }
    return this.#use(row, nowMs)
  }

  /** Of an identity that its issuer vouches for: known from its first visit on. */
  verifyIdentity(identity: NewIdentity, nowMs: number): VerifiedKey {
    const { keyId, name, access } = identity
    const known = this.#find(keyId)
    if (known?.kind === 'secret' || !this.hasProject(access.projectId)) return { status: 'unknown' }
    if (known === undefined) {
      if (this.#count('keys') >= KEYS_MAX) return { status: 'unknown' }
      const nothing = { secretHash: NO_HASH, lastFour: '', expiresAtMs: null }
      this.#insert({ keyId, name, access, createdAtMs: nowMs, ...nothing }, 'identity')
    }
    const row = this.#find(keyId)
    if (row === undefined) return { status: 'unknown' }
    const verified = this.#use(row, nowMs)
    // What it may do is the issuer's word of today, not that of its first visit.
    return verified.status === 'valid' ? { ...verified, access } : verified
  }

  /** Whether a request under the key may start now: it is there and has not ended. */
  statusOf(keyId: string, nowMs: number): VerifiedKey['status'] {
    const row = this.#find(keyId)
    return row === undefined ? 'unknown' : (endOf(row, nowMs) ?? 'valid')
  }

  /** Null when there is no such key. */
  projectOf(keyId: string): string | null {
    return this.#find(keyId)?.project_id ?? null
  }

  createProject(project: NewProject): CreateProjectStatus {
    if (this.#count('projects') >= PROJECTS_MAX) return 'too_many_projects'
    if (this.hasProject(project.projectId)) return 'exists'
    this.#sql.exec(
      'INSERT INTO projects (project_id, name, created_at_ms) VALUES (?, ?, ?)',
      project.projectId,
      project.name,
      project.createdAtMs,
    )
    return 'created'
  }

  listProjects(): NewProject[] {
    return this.#sql
      .exec<{ project_id: string; name: string; created_at_ms: number }>(
        'SELECT * FROM projects ORDER BY project_id',
      )
      .toArray()
      .map((row) => ({
        projectId: row.project_id,
        name: row.name,
        createdAtMs: row.created_at_ms,
      }))
  }

  hasProject(projectId: string): boolean {
    if (projectId === DEFAULT_PROJECT) return true
    const found = this.#sql.exec('SELECT 1 FROM projects WHERE project_id = ?', projectId)
    return found.toArray().length === 1
  }

  #use(row: KeyColumns, nowMs: number): VerifiedKey {
    const ended = endOf(row, nowMs)
    if (ended !== null) return { status: ended }
    if (nowMs - (row.last_used_at_ms ?? 0) >= LAST_USED_STEP_MS) {
      this.#sql.exec('UPDATE keys SET last_used_at_ms = ? WHERE key_id = ?', nowMs, row.key_id)
    }
    return { status: 'valid', access: accessOf(row), expiresAtMs: row.expires_at_ms }
  }

  #find(keyId: string): KeyColumns | undefined {
    return this.#sql.exec<KeyColumns>('SELECT * FROM keys WHERE key_id = ?', keyId).toArray()[0]
  }

  #insert(key: NewKey, kind: 'secret' | 'identity'): boolean {
    const { access } = key
    const inserted = this.#sql.exec(
      `INSERT INTO keys (key_id, name, kind, secret_hash, last_four, project_id, models, routes,
         created_at_ms, expires_at_ms)
       VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING key_id`,
      key.keyId,
      key.name,
      kind,
      key.secretHash,
      key.lastFour,
      access.projectId,
      access.models === null ? null : JSON.stringify(access.models),
      access.routes === null ? null : JSON.stringify(access.routes),
      key.createdAtMs,
      key.expiresAtMs,
    )
    return inserted.toArray().length === 1
  }

  #count(table: 'keys' | 'projects'): number {
    return this.#sql.exec<{ count: number }>(`SELECT count(*) AS count FROM ${table}`).one().count
  }
}

/** Why a key may no longer be used, or null while it may. */
function endOf(row: KeyColumns, nowMs: number): 'revoked' | 'expired' | null {
  if (row.revoked_at_ms !== null) return 'revoked'
  return row.expires_at_ms !== null && nowMs >= row.expires_at_ms ? 'expired' : null
}

/** Our own JSON, written by `#insert` from checked values. */
function accessOf(row: KeyColumns): Access {
  return {
    projectId: row.project_id,
    models: row.models === null ? null : (JSON.parse(row.models) as string[]),
    routes: row.routes === null ? null : (JSON.parse(row.routes) as RouteScope[]),
  }
}

function toSummary(row: KeyColumns): KeySummary {
  return {
    keyId: row.key_id,
    name: row.name,
    lastFour: row.last_four,
    access: accessOf(row),
    createdAtMs: row.created_at_ms,
    expiresAtMs: row.expires_at_ms,
    revokedAtMs: row.revoked_at_ms,
    lastUsedAtMs: row.last_used_at_ms,
  }
}
