/**
 * npm run bench:capture -- [rows] [rounds]: what capture costs a row, on the lead alone: the same statements with
 * our triggers and without them, by turns.
 */
import { init } from '../../driver/schema/install.ts'
import { destroyAll, threeServers } from '../servers.ts'
import pg from 'pg'

const [rows, rounds] = [Number(process.argv[2] ?? 20_000), Number(process.argv[3] ?? 7)]
const servers = await threeServers({}, 1)
const [server] = servers
if (!server) throw new Error('no server')
const client = new pg.Client(server.url)
try {
  await client.connect()
  await client.query('CREATE TABLE t (id int PRIMARY KEY, a int, b text, at timestamptz DEFAULT now())')
  await init([{ connectionString: server.url }], [server.url])
  const one = async (text: string, captured: boolean): Promise<number> => {
    await client.query(
      `BEGIN; ${captured ? "SET LOCAL quorum.cover = 'infer'" : 'SET LOCAL session_replication_role = replica'}`,
    )
    const from = performance.now()
    await client.query(text)
    const ms = performance.now() - from
    await client.query('DELETE FROM quorum.capture; COMMIT')
    return ms
  }
  const median = (list: number[]): number => list.sort((a, b) => a - b)[Math.floor(list.length / 2)] ?? 0
  const STATEMENTS: Record<string, [text: string, undo: string]> = {
    INSERT: [`INSERT INTO t SELECT g, g, 'some text ' || g FROM generate_series(1, ${rows}) g`, 'DELETE FROM t'],
    UPDATE: ['UPDATE t SET a = a + 1', ''],
    DELETE: ['DELETE FROM t', `INSERT INTO t SELECT g, g, 'some text ' || g FROM generate_series(1, ${rows}) g`],
  }
  for (const [name, [text, undo]] of Object.entries(STATEMENTS)) {
    const times: Record<'true' | 'false', number[]> = { true: [], false: [] }
    for (let i = 0; i < rounds * 2; i++) {
      times[`${i % 2 === 0}`].push(await one(text, i % 2 === 0))
      if (undo !== '') await one(undo, false)
      await client.query('VACUUM t')
    }
    if (name === 'INSERT') await one(text, false)
    const [captured, plain] = [median(times.true), median(times.false)]
    process.stdout.write(
      `${name} of ${rows} rows: ${plain.toFixed(0)} ms without capture, ${captured.toFixed(0)} ms with it: ${(((captured - plain) * 1000) / rows).toFixed(1)} µs a row more (median of ${rounds})\n`,
    )
  }
  const singles: Record<string, number> = {}
  for (const captured of [false, true]) {
    await client.query('DELETE FROM t').catch(() => undefined)
    await one("INSERT INTO t SELECT g, g, 'x' FROM generate_series(1, 100) g ON CONFLICT DO NOTHING", false)
    const list: number[] = []
    for (let i = 0; i < 500; i++) list.push(await one(`UPDATE t SET a = a + 1 WHERE id = ${(i % 100) + 1}`, captured))
    singles[String(captured)] = median(list)
  }
  process.stdout.write(
    `UPDATE of one row: ${singles['false']?.toFixed(3)} ms without capture, ${singles['true']?.toFixed(3)} ms with it (median of 500)\n`,
  )
} finally {
  await client.end()
  await destroyAll(servers)
}
