/**
 * A small shop as one writes it with pg: an HTTP API with sessions, and a queue worker. Nothing in here knows on
 * how many servers the database is; it takes a pg.Pool.
 */
import { randomUUID } from 'node:crypto'
import { createServer, type IncomingMessage, type Server } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import type pg from 'pg'

export const SCHEMA = `
  CREATE TABLE sessions (id uuid PRIMARY KEY, customer text NOT NULL, expires timestamptz NOT NULL);
  CREATE TABLE items (name text PRIMARY KEY, stock int NOT NULL CHECK (stock >= 0));
  CREATE TABLE orders (id uuid PRIMARY KEY, customer text NOT NULL, item text NOT NULL REFERENCES items, quantity int NOT NULL CHECK (quantity > 0), at timestamptz NOT NULL DEFAULT now());
  CREATE TABLE queue (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, order_id uuid NOT NULL);
  CREATE TABLE parcels (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, order_id uuid NOT NULL);
  INSERT INTO items VALUES ('book', 1000000), ('lamp', 1000000), ('chair', 1000000)`

/**
 * BEGIN … COMMIT, once more when the database says so: what every application has that uses SERIALIZABLE, or ever
 * saw a deadlock.
 */
export async function transaction<T>(pool: pg.Pool, work: (client: pg.PoolClient) => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    let client: pg.PoolClient | undefined
    try {
      client = await pool.connect()
      await client.query('BEGIN')
      const result = await work(client)
      await client.query('COMMIT')
      client.release()
      return result
    } catch (error) {
      await client?.query('ROLLBACK').catch(() => undefined)
      client?.release(error as Error)
      if (attempt >= 30 || !['40001', '40P01', '08006'].includes((error as pg.DatabaseError).code ?? '')) throw error
      await sleep(Math.random() * 20 * attempt)
    }
  }
}

/** POST /login, POST /orders (its id is the customer's, so it may be sent again), GET /orders. */
export function api(pool: pg.Pool): Server {
  return createServer((request, response) => {
    const answer = (status: number, body: unknown, headers = {}): void =>
      void response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body))
    handle(request).then(
      ([status, body, headers]) => answer(status, body, headers),
      (error: Error & { code?: string }) =>
        answer(error.code?.startsWith('23') ? 422 : 503, { error: error.message, code: error.code }),
    )
  })

  async function handle(request: IncomingMessage): Promise<[status: number, body: unknown, headers?: object]> {
    const route = `${request.method} ${request.url}`
    const body =
      request.method === 'POST'
        ? (JSON.parse(Buffer.concat((await request.toArray()) as Buffer[]).toString()) as Record<string, string>)
        : {}
    if (route === 'POST /login') {
      const id = randomUUID()
      await pool.query("INSERT INTO sessions VALUES ($1, $2, now() + '1 hour')", [id, body['customer']])
      return [200, {}, { 'set-cookie': `session=${id}; HttpOnly` }]
    }
    const session = /session=([\w-]+)/.exec(request.headers.cookie ?? '')?.[1] ?? null
    const customer = (
      await pool.query<{ customer: string }>('SELECT customer FROM sessions WHERE id = $1 AND expires > now()', [
        session,
      ])
    ).rows[0]?.customer
    if (customer === undefined) return [401, { error: 'log in first' }]
    if (route === 'GET /orders')
      return [200, (await pool.query('SELECT id, item, quantity FROM orders WHERE customer = $1', [customer])).rows]
    if (route !== 'POST /orders') return [404, { error: 'there is nothing here' }]
    const isNew = await transaction(pool, async (client) => {
      const { rowCount } = await client.query(
        'INSERT INTO orders (id, customer, item, quantity) VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO NOTHING',
        [body['id'], customer, body['item'], body['quantity']],
      )
      if (rowCount === 1) await client.query('INSERT INTO queue (order_id) VALUES ($1)', [body['id']])
      return rowCount === 1
    })
    return [isNew ? 201 : 200, { id: body['id'] }]
  }
}

/** Takes some orders from the queue and packs them, in one transaction: packed and taken, or neither. How many. */
export function pack(pool: pg.Pool): Promise<number> {
  return transaction(pool, async (client) => {
    const { rows } = await client.query<{ id: string; order_id: string }>(
      'SELECT id, order_id FROM queue ORDER BY id LIMIT 20 FOR UPDATE SKIP LOCKED',
    )
    if (rows.length === 0) return 0
    const orders = [rows.map((r) => r.order_id)]
    await client.query(
      'UPDATE items SET stock = stock - o.pieces FROM (SELECT item, sum(quantity) AS pieces FROM orders WHERE id = ANY ($1) GROUP BY item) o WHERE o.item = items.name',
      orders,
    )
    await client.query('INSERT INTO parcels (order_id) SELECT unnest($1::uuid[])', orders)
    await client.query('DELETE FROM queue WHERE id = ANY ($1)', [rows.map((r) => r.id)])
    return rows.length
  })
}
