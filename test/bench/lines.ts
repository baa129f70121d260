/**
 * Where the time of a PL/pgSQL function goes, line by line (`npm run bench:steps -- --lines seal,enter`): its lines
 * note what each took, and leave that in a table. A note is 1 to 3 µs itself, and a line counts where its statement
 * ends; functions without DECLARE are passed over.
 */
import { ask, type TestServer } from '../servers.ts'

const NOTE = (label: string): string =>
  ` noted := noted || (${label} || '|' || extract(epoch FROM clock_timestamp() - noted_at) * 1e6); noted_at := clock_timestamp();`
const LEAVE =
  " INSERT INTO quorum_shadow.noted SELECT split_part(x, '|', 1), split_part(x, '|', 2)::float8 FROM unnest(noted) x;"
const quote = (text: string): string => `'${text.trim().slice(0, 90).replace(/['|]/g, '!')}'`

function noting(name: string, definition: string): string {
  let [inside, k] = [false, 0]
  return definition
    .split('\n')
    .map((line) => {
      if (/^\s*DECLARE\b/.test(line))
        return line.replace('DECLARE', "DECLARE noted_at timestamptz := clock_timestamp(); noted text[] := '{}';")
      if (/^\s*BEGIN\s*$/.test(line) && !inside) {
        inside = true
        return line + NOTE(quote(`${name} 00 DECLARE`))
      }
      if (!inside) return line
      if (/^\s*(RETURN\b|END *\$|END;?\s*$)/.test(line)) return `${LEAVE}\n${line}`
      return /;\s*(--.*)?$/.test(line) && !/\bRETURN\b/.test(line)
        ? `${line.replace(/;\s*--.*$/, ';')}${NOTE(quote(`${name} ${String(++k).padStart(2, '0')} ${line}`))}`
        : line
    })
    .join('\n')
}

export async function noteLines(server: TestServer, names: readonly string[]): Promise<void> {
  await ask(
    server,
    'CREATE UNLOGGED TABLE IF NOT EXISTS quorum_shadow.noted (what text, us float8); GRANT ALL ON quorum_shadow.noted TO PUBLIC',
  )
  const found = await ask(
    server,
    "SELECT p.proname AS name, pg_get_functiondef(p.oid) AS definition FROM pg_proc p WHERE p.pronamespace IN ('quorum'::regnamespace, 'quorum_shadow'::regnamespace) AND p.proname = ANY ($1) AND p.prosrc LIKE '%DECLARE%'",
    [names],
  )
  for (const { name, definition } of found) await ask(server, noting(name as string, definition as string))
}

/** Since the last time: the median µs of each line, in their order. */
export async function linesNoted(server: TestServer): Promise<string[]> {
  const rows = await ask(
    server,
    'SELECT what, count(*)::int AS times, percentile_cont(0.5) WITHIN GROUP (ORDER BY us) AS us FROM quorum_shadow.noted GROUP BY 1 ORDER BY 1',
  )
  await ask(server, 'TRUNCATE quorum_shadow.noted')
  return rows.map(
    (r) =>
      `${Number(r['us']).toFixed(0).padStart(5)} µs  ${String(r['times']).padStart(6)} times  ${String(r['what'])}`,
  )
}
