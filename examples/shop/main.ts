/**
 * `npm run example`: the shop on three PostgreSQL servers, open while one of them is killed -9 and while it comes
 * back. `-- --plain`: the same code on one server and a plain pg.Pool, where nothing is killed. Exit code 1 unless
 * every order that a customer was promised was packed exactly once, on every server.
 */
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { startServers, type EmbeddedServer } from '../../driver/embedded/embedded.ts'
import { Pool } from '../../driver/index.ts'
import { init } from '../../driver/schema/install.ts'
import { api, pack, SCHEMA } from './app.ts'

const plain = process.argv.includes('--plain')
const CUSTOMERS = 4,
  WORKERS = 2
const AT = { killed: 4000, back: 8000, closed: 12_000 }
const say = (line: string): void => {
  process.stdout.write(`${line}\n`)
}

const servers: EmbeddedServer[] = await startServers(plain ? 1 : 3)
for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const)
  process.on(signal, () => process.exit(code)) // the servers notice
const urls = servers.map((s) => s.url)
if (!plain)
  await init(
    urls.map((connectionString) => ({ connectionString })),
    urls,
  )

// The one line.
const pool = plain ? new pg.Pool({ connectionString: urls[0] }) : new Pool({ replicas: urls })

pool.on('error', () => undefined)
await pool.query(SCHEMA)
const shop = api(pool).listen(0, '127.0.0.1')
await once(shop, 'listening')
const url = `http://127.0.0.1:${(shop.address() as AddressInfo).port}`
say(`The shop is open at ${url}, on ${plain ? 'one server and a plain pg.Pool' : 'three servers'}.`)

const promised = new Set<string>()
let open = true
let packed = 0
let sentAgain = 0
let longest_ms = 0

/** A request that ends with an answer: an order may be sent again, its id says that it is the same. */
async function post(path: string, body: object, cookie = ''): Promise<Response> {
  for (;;) {
    const response = await fetch(url + path, { method: 'POST', headers: { cookie }, body: JSON.stringify(body) })
    if (response.ok) return response
    if (response.status !== 503) throw new Error(`${path}: ${response.status} ${await response.text()}`)
    sentAgain++
    await response.text()
    await sleep(50)
  }
}

async function customer(name: string): Promise<void> {
  const cookie = (await post('/login', { customer: name })).headers.get('set-cookie') ?? ''
  while (open) {
    const order = {
      id: randomUUID(),
      item: ['book', 'lamp', 'chair'][promised.size % 3],
      quantity: 1 + (promised.size % 2),
    }
    const from = performance.now()
    await (await post('/orders', order, cookie)).text()
    longest_ms = Math.max(longest_ms, performance.now() - from)
    promised.add(order.id)
    await sleep(100 + Math.random() * 300) // a person thinks
  }
}

let packing = true
async function worker(): Promise<void> {
  while (packing) {
    // An error here is one whose outcome is not known, or a database that cannot be reached: either the order is
    // packed, or it is still in the queue.
    const n = await pack(pool).catch(() => 0)
    packed += n
    if (n === 0) await sleep(100)
  }
}

const begun = Date.now()
const report = setInterval(
  () =>
    say(
      `${String(Math.round((Date.now() - begun) / 1000)).padStart(3)} s   ${promised.size} orders taken, ${packed} packed`,
    ),
  1000,
)
const at = async (ms: number, what: string, work: () => Promise<unknown>): Promise<void> => {
  await sleep(begun + ms - Date.now())
  say(`        ${what}`)
  await work()
}
const workers = Array.from({ length: WORKERS }, worker)
const customers = Array.from({ length: CUSTOMERS }, (_, i) => customer(`customer ${i + 1}`))
if (!plain) {
  await at(AT.killed, 'kill -9 of server 1, which everything ran on', () => servers[0]!.kill())
  await at(AT.back, 'server 1 is started again', () => servers[0]!.start())
}
await at(AT.closed, 'the shop closes; what is in the queue is packed', async () => {
  open = false
})
await Promise.all(customers)
const patience = Date.now() + 30_000
while (Date.now() < patience && (await pool.query('SELECT FROM queue LIMIT 1')).rowCount !== 0) await sleep(50)
packing = false
await Promise.all(workers)
clearInterval(report)
shop.close()

/** Each server's own word, not the pool's. */
async function audit(server: EmbeddedServer): Promise<string[]> {
  const client = new pg.Client(server.url)
  await client.connect()
  try {
    const {
      rows: [r],
    } = await client.query<Record<'lost' | 'orders' | 'unpacked' | 'twice' | 'stock' | 'sold' | 'queued', number>>(
      `SELECT
      (SELECT count(*)::int FROM unnest($1::uuid[]) p WHERE NOT EXISTS (SELECT FROM orders WHERE id = p)) AS lost, (SELECT count(*)::int FROM orders) AS orders,
      (SELECT count(*)::int FROM orders o WHERE NOT EXISTS (SELECT FROM parcels WHERE order_id = o.id)) AS unpacked,
      (SELECT count(*)::int FROM (SELECT FROM parcels GROUP BY order_id HAVING count(*) > 1) d) AS twice, (SELECT count(*)::int FROM queue) AS queued,
      (SELECT 3000000 - sum(stock) FROM items)::int AS stock, (SELECT coalesce(sum(quantity), 0) FROM orders)::int AS sold`,
      [[...promised]],
    )
    if (!r) throw new Error('no answer')
    return [
      ...(r.lost > 0 ? [`${r.lost} promised orders are lost`] : []),
      ...(r.orders !== promised.size ? [`${r.orders} orders, but ${promised.size} were promised`] : []),
      ...(r.unpacked + r.queued > 0 ? [`${r.unpacked} orders are not packed`] : []),
      ...(r.twice > 0 ? [`${r.twice} orders were packed twice`] : []),
      ...(r.stock !== r.sold ? [`${r.sold} pieces were ordered, but ${r.stock} left the stock`] : []),
    ]
  } finally {
    await client.end()
  }
}

let wrong: string[] = ['not looked at']
for (const end = Date.now() + 10_000; wrong.length > 0 && Date.now() < end; await sleep(100)) {
  // a follower commits a moment later
  wrong = (await Promise.all(servers.map(async (s, i) => (await audit(s)).map((w) => `server ${i + 1}: ${w}`)))).flat()
}
say(
  `${promised.size} orders were promised. The longest took ${Math.round(longest_ms)} ms; ${sentAgain} requests were sent again.`,
)
for (const line of wrong) say(`WRONG: ${line}`)
if (wrong.length === 0)
  say(`Each was packed exactly once, ${plain ? 'on the server' : 'and all three servers say so'}.`)
await pool.end()
await Promise.all(servers.map((s) => s.destroy()))
process.exit(wrong.length === 0 ? 0 : 1)
