/** Its migrations up and down through a client of the pool, under its advisory lock; then the table is used. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { runner, type RunnerOption } from 'node-pg-migrate'
import { compat } from './harness.ts'

const MIGRATIONS = {
  '1700000000001_films.js': `export const up = (pgm) => {
    pgm.createType('rating', ['good', 'bad'])
    pgm.createTable('films', { id: 'id', title: { type: 'text', notNull: true }, rating: { type: 'rating', default: 'good' } })
    pgm.createIndex('films', 'title')
    pgm.createFunction('shout', [{ name: 't', type: 'text' }], { returns: 'text', language: 'sql', behavior: 'IMMUTABLE' }, 'SELECT upper(t)')
  }`,
  '1700000000002_seed.sql': `-- Up Migration
INSERT INTO films (title) VALUES ('Metropolis'), ('M'), ('Solaris');
ALTER TABLE films ADD COLUMN year int CHECK (year > 1890);
UPDATE films SET year = 1927 WHERE title = 'Metropolis';
-- Down Migration
DELETE FROM films;
ALTER TABLE films DROP COLUMN year;
`,
  '1700000000003_view.js': `export const up = (pgm) => { pgm.createView('silent', {}, 'SELECT id, shout(title) AS title FROM films WHERE year < 1929') }`,
}

compat('node-pg-migrate', async (db) => {
  const dir = mkdtempSync(join(tmpdir(), 'pg-quorum-migrations-'))
  for (const [name, text] of Object.entries(MIGRATIONS)) writeFileSync(join(dir, name), text)
  writeFileSync(join(dir, 'package.json'), '{ "type": "module" }')
  const migrate = async (options: Partial<RunnerOption>): Promise<number> => {
    const client = await db.pool.connect()
    try {
      return (
        await runner({
          dbClient: client,
          dir,
          migrationsTable: 'pgmigrations',
          ignorePattern: 'package.json',
          log: () => undefined,
          direction: 'up',
          ...options,
        } as RunnerOption)
      ).length
    } finally {
      client.release()
    }
  }
  try {
    expect(await migrate({})).to.equal(3)
    expect(await migrate({ direction: 'down', count: 2 })).to.equal(2)
    expect(await migrate({})).to.equal(2)
    expect(await migrate({})).to.equal(0)
  } finally {
    rmSync(dir, { recursive: true })
  }
  expect((await db.pool.query('SELECT title FROM silent')).rows).to.deep.equal([{ title: 'METROPOLIS' }])
  await db.storm(3, 2000, (n) => db.pool.query(`INSERT INTO films (title, year) VALUES ($1, 2000)`, [`film ${n}`]))
})
