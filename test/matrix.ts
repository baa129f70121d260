// The whole suite once per PostgreSQL major, one after another: npm run test:matrix [-- mocha's own arguments].
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'

const ROOT = join(import.meta.dirname, '..')
const rows = ['15', '16', '17', '18'].map((major) => {
  console.log(`\n=== PostgreSQL ${major} ===`)
  const start_ms = Date.now()
  const { status, signal, error } = spawnSync(
    process.execPath,
    [join(ROOT, 'node_modules/mocha/bin/mocha.js'), ...process.argv.slice(2)],
    { cwd: ROOT, stdio: 'inherit', env: { ...process.env, PG_MAJOR: major } },
  )
  const result = error
    ? error.message
    : signal
      ? `killed by ${signal}`
      : status === 0
        ? 'passed'
        : `failed (exit code ${status})`
  return { PostgreSQL: major, result, seconds: Math.round((Date.now() - start_ms) / 1000), ok: status === 0 }
})
console.log()
console.table(rows.map(({ ok: _, ...row }) => row))
process.exitCode = rows.every((row) => row.ok) ? 0 : 1
