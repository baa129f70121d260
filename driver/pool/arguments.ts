/**
 * pg's ways of saying one thing: query(text), (text, values), (config), (config, values), each with a callback or a
 * promise.
 */
import pg from 'pg'

export interface Config extends pg.QueryConfig {
  [key: string]: unknown
}
export type Callback = (error: Error | null | undefined, result?: unknown) => void

/** What pg reads of a config. By name: a config may be an object of a class, whose text is a getter. */
const FIELDS = [
  'text',
  'values',
  'name',
  'rowMode',
  'types',
  'queryMode',
  'rows',
  'portal',
  'binary',
  'query_timeout',
] as const

export const isSubmittable = (first: unknown): first is pg.Submittable =>
  typeof (first as { submit?: unknown } | null | undefined)?.submit === 'function'

/** reads: how old what it reads may be, where the config says it. */
export function read(
  first: unknown,
  second: unknown,
  third: unknown,
): { config: Config; callback: Callback | undefined; reads: unknown } {
  if (first === null || first === undefined) throw new TypeError('Client was passed a null or undefined query')
  const callback =
    typeof third === 'function'
      ? third
      : typeof second === 'function'
        ? second
        : (first as { callback?: unknown }).callback
  const config = {} as Config
  if (typeof first === 'string') config.text = first
  else
    for (const field of FIELDS)
      if ((first as Config)[field] !== undefined) (config as Record<string, unknown>)[field] = (first as Config)[field]
  if (second !== undefined && second !== null && typeof second !== 'function') config.values = second as unknown[]
  return {
    config,
    callback: typeof callback === 'function' ? (callback as Callback) : undefined,
    reads: typeof first === 'object' ? (first as Config)['reads'] : undefined,
  }
}

/** What is more than a text and its values. */
export function hasMore(config: Config): boolean {
  for (const field in config) if (field !== 'text' && field !== 'values') return true
  return typeof config.text !== 'string'
}

/** As pg takes it soonest: any other object it copies, property by property. */
export function send(client: Pick<pg.Client, 'query'>, config: Config): Promise<pg.QueryResult> {
  if (!hasMore(config)) return client.query(config.text, config.values)
  if (typeof config.text !== 'string') return client.query(config)
  for (const field in config)
    if (field !== 'text' && field !== 'values' && field !== 'name') return client.query(config)
  return new Promise<pg.QueryResult>((resolve, reject) => {
    const query = new pg.Query(config.text, config.values) as pg.Query & {
      name: string | undefined
      callback: (error: Error | null, result: pg.QueryResult) => void
    }
    query.name = config.name
    query.callback = (error, result) => {
      if (error) reject(error)
      else resolve(result)
    }
    client.query(query)
  }).catch((error: unknown) => {
    Error.captureStackTrace(error as Error) // as pg does: one that leads to who asked
    throw error
  })
}

/**
 * The promise itself, or undefined when a callback gets the answer. What a callback throws is nobody's answer: it
 * ends the process as with pg.
 */
export function answer<T>(
  work: Promise<T>,
  callback: Callback | undefined,
  none: null | undefined = null,
): Promise<T> | undefined {
  if (!callback) return work
  work.then(
    (result) => process.nextTick(callback, none, result),
    (error: Error) => process.nextTick(callback, error),
  )
  return undefined
}
