/** What a key may be kept to: groups of the API's paths. */
export const ROUTE_SCOPES = ['chat', 'models', 'usage', 'limits', 'requests'] as const
export type RouteScope = (typeof ROUTE_SCOPES)[number]

/** The project of every key that was made without one. */
export const DEFAULT_PROJECT = 'default'

/** What a key, or an identity of an issuer, may do. A null list allows everything. */
export interface Access {
  readonly projectId: string
  readonly models: readonly string[] | null
  readonly routes: readonly RouteScope[] | null
}

export function mayUseModel(access: Access, model: string): boolean {
  return access.models === null || access.models.includes(model)
}

export function mayUseRoute(access: Access, scope: RouteScope): boolean {
  return access.routes === null || access.routes.includes(scope)
}

const PROJECT_ID = /^[a-z0-9][a-z0-9_-]{0,63}$/

export function isProjectId(text: string): boolean {
  return PROJECT_ID.test(text)
}
