/**
 * npm run bench:steps -- [times] [--together 8] [--lines seal,'accept public.accounts']: a write of one row, or so
 * many in one transaction as in a group, step by step, on a lead and one follower, nobody else there: median time
 * of each message, and the servers' processor time in all.
 */
import { readFileSync } from 'node:fs'
import pg from 'pg'
import { parseArgs } from 'node:util'
import { OWN_TYPES } from '../../driver/replica/answers.ts'
import { leadOver } from '../../driver/replica/postgres-lead.ts'
import { watched } from '../../driver/replica/address.ts'
import { PostgresReplica } from '../../driver/replica/postgres.ts'
import { coverText } from '../../driver/replica/statements.ts'
import { found } from '../cluster.ts'
import { ask, destroyAll, threeServers } from '../servers.ts'
import { linesNoted, noteLines } from './lines.ts'
import { cpu_s } from './meter.ts'

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: { major: { type: 'string' }, together: { type: 'string', default: '1' }, lines: { type: 'string' } },
})
const times = Number(positionals[0] ?? 3000)
const together = Number(values.together)
const servers = await threeServers(values.major ? { major: Number(values.major) as never } : {}, 2)
const [one, two] = servers
if (!one || !two) throw new Error('no servers')
try {
  for (const s of servers)
    await ask(
      s,
      'CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL); INSERT INTO accounts SELECT g, 1000 FROM generate_series(1, 10000) g',
    )
  for (const s of servers) await ask(s, 'VACUUM ANALYZE accounts')
  const urls = await found(servers)
  for (const s of servers) await ask(s, 'ALTER TABLE accounts OWNER TO app')
  if (values.lines) for (const s of servers) await noteLines(s, values.lines.split(','))
  const client = new pg.Client(watched({ connectionString: urls[0]! }))
  client.on('error', (e) => console.error(e.message))
  await client.connect()
  const own = async (text: string | pg.QueryConfig, args?: unknown[]): Promise<pg.QueryResult> =>
    client.query({
      types: OWN_TYPES,
      ...(typeof text === 'string' ? { text } : text),
      ...(args ? { values: args } : {}),
    } as pg.QueryConfig)
  const replica = new PostgresReplica({
    name: 'two',
    index: 1,
    config: { connectionString: urls[1]! },
    links: 4,
    connectMs: 3000,
    callMs: 5000,
    check: () => undefined,
  })
  const lead = leadOver({
    replica: () => replica,
    query: own as never,
    status: () => 'T',
    destroy: () => undefined,
    changes: () => 0,
  })
  const session = await replica.open()
  const took = new Map<string, { us: number[]; cpu_us: number[] }>()
  const cpu_us = (pid: number): number => Number(readFileSync(`/proc/${pid}/schedstat`, 'utf8').split(' ')[0]) / 1000
  const backends: number[] = []
  backends.push(
    (await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid')).rows[0]!.pid,
    ((await ask(two, "SELECT pid FROM pg_stat_activity WHERE application_name = 'pg-quorum'"))[0] as { pid: number })
      .pid,
  )
  const timed = async <T>(name: string, work: () => Promise<T>): Promise<T> => {
    const from = performance.now()
    const used = backends.map(cpu_us)
    const result = await work()
    const us = (performance.now() - from) * 1000
    // the kernel counts a process's time when it goes to sleep
    for (const at = performance.now(); performance.now() < at + 0.08;);
    const step = took.get(name) ?? { us: [], cpu_us: [] }
    step.us.push(us)
    step.cpu_us.push(backends.reduce((sum, pid, i) => sum + cpu_us(pid) - used[i]!, 0))
    took.set(name, step)
    return result
  }
  const write = async (i: number): Promise<void> => {
    const ids = Array.from({ length: together }, (_, j) => 1 + (((i * together + j) * 7919) % 10_000))
    await timed('empty round trip', () => own('SELECT 1'))
    await timed('BEGIN, cover', () => own(`BEGIN; ${coverText('infer')}`))
    await timed('UPDATE', async () => {
      const mode = client as unknown as { pipeline: boolean }
      mode.pipeline = true
      await Promise.all(ids.map((id) => client.query('UPDATE accounts SET balance = balance + 1 WHERE id = $1', [id])))
      mode.pipeline = false
    })
    const sealed = await timed('seal', () => lead.seal('quorum_a_b_c_', [], false, true, 2500, 1 << 24, 2))
    if (sealed.state !== 'sealed') throw new Error(JSON.stringify(sealed))
    const changeset = { gid: sealed.gid!, body: sealed.body!, via: sealed.via ?? undefined }
    const reply = await timed('accept', () => session.accept(changeset, { number: 0, by: '' }))
    if (reply.answer !== 'yes') throw new Error(String((reply as { error: unknown }).error))
    await timed('COMMIT', () => own('COMMIT'))
    await timed('COMMIT PREPARED', () => session.finish(changeset.gid, 'commit'))
  }
  for (let i = 0; i < 300; i++) await write(i)
  took.clear()
  if (values.lines) for (const s of servers) await linesNoted(s)
  const cpu = [one, two].map((s) => cpu_s([s]))
  for (let i = 300; i < 300 + times; i++) await write(i)
  const used = [one, two].map((s, i) => ((cpu_s([s]) - cpu[i]!) * 1000) / times / together)
  const median = (list: number[]): number => list.sort((a, b) => a - b)[Math.floor(list.length / 2)] ?? 0
  let sum = 0
  for (const [name, { us, cpu_us }] of took) {
    const cost = cpu_us.reduce((a, b) => a + b, 0) / cpu_us.length / together
    sum += name === 'empty round trip' ? 0 : cost
    console.log(
      `${name.padEnd(18)} ${median(us).toFixed(0).padStart(5)} µs, processor ${(median(cpu_us) / together).toFixed(0)} µs a write (mean ${cost.toFixed(0)})`,
    )
  }
  console.log(
    `processor time of the two sessions: ${sum.toFixed(0)} µs a write; of all processes: lead ${used[0]!.toFixed(3)} ms (with one SELECT 1), follower ${used[1]!.toFixed(3)} ms`,
  )
  if (values.lines)
    for (const [i, s] of servers.entries())
      console.log(`\n${i === 0 ? 'lead' : 'follower'}, with notes\n${(await linesNoted(s)).join('\n')}`)
  session.release()
  await replica.close()
  await client.end()
} catch (error) {
  console.error(error)
} finally {
  await destroyAll(servers)
}
