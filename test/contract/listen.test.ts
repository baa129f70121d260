/** LISTEN, NOTIFY, UNLISTEN. */
import { expect } from 'chai'
import type pg from 'pg'
import { ask } from '../servers.ts'
import { both, pause } from './both.ts'

both('LISTEN', (kind) => {
  let pool: pg.Pool
  let client: pg.PoolClient
  let heard: string[]
  before(async () => {
    pool = kind.pool()
    await pool.query('CREATE TABLE lis (id int PRIMARY KEY)')
    await pool.query(
      "CREATE FUNCTION lis_say(what text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('news', what); END $$",
    )
    await pool.query(
      "CREATE FUNCTION lis_trigger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('news', 'row ' || NEW.id); RETURN NEW; END $$",
    )
    await pool.query('CREATE TRIGGER lis AFTER INSERT ON lis FOR EACH ROW EXECUTE FUNCTION lis_trigger()')
    client = await pool.connect()
    client.on('notification', (m) => heard.push(`${m.channel}: ${m.payload ?? ''}`))
  })
  after(() => client.release())
  beforeEach(async () => {
    heard = []
    await client.query('LISTEN news')
  })
  afterEach(async () => {
    await client.query('UNLISTEN *')
    await pool.query('DELETE FROM lis')
  })
  /** And nothing twice. */
  const hears = async (...what: string[]): Promise<void> => {
    for (let i = 0; i < 150 && heard.length < what.length; i++) await pause(20)
    await pause(60)
    expect(heard).to.deep.equal(what)
  }

  it('NOTIFY, with and without payload, also from another pool', async () => {
    await pool.query("NOTIFY news, 'one'")
    await kind.pool().query('NOTIFY news')
    await hears('news: one', 'news: ')
  })
  it('the message has channel, payload and processId', async () => {
    const message = new Promise<pg.Notification>((resolve) => client.once('notification', resolve))
    await client.query("NOTIFY news, 'x'")
    expect(await message).to.deep.include({
      channel: 'news',
      payload: 'x',
      processId: (client as unknown as { processID: number }).processID,
    })
  })
  it('pg_notify(), a function, a trigger: once each', async () => {
    await pool.query("SELECT pg_notify('news', $1)", ['a'])
    await hears('news: a')
    await pool.query("SELECT lis_say('b')")
    await hears('news: a', 'news: b')
    await pool.query('INSERT INTO lis VALUES (1), (2)')
    await hears('news: a', 'news: b', 'news: row 1', 'news: row 2')
  })
  it('at COMMIT, not before; never after ROLLBACK; one of equals', async () => {
    const other = await pool.connect()
    await other.query('BEGIN')
    await other.query("NOTIFY news, 'x'")
    await other.query("NOTIFY news, 'x'")
    await other.query('INSERT INTO lis VALUES (7)')
    await hears()
    await other.query('COMMIT')
    await hears('news: x', 'news: row 7')
    await other.query('BEGIN')
    await other.query("NOTIFY news, 'never'")
    await other.query('ROLLBACK')
    other.release()
    await hears('news: x', 'news: row 7')
  })
  it('LISTEN in a transaction counts from its COMMIT', async () => {
    await client.query('BEGIN')
    await client.query('LISTEN "Other Channel"')
    await client.query('ROLLBACK')
    await pool.query('NOTIFY "Other Channel", \'no\'')
    await client.query('BEGIN')
    await client.query('LISTEN "Other Channel"')
    await client.query('COMMIT')
    await pool.query('NOTIFY "Other Channel", \'yes\'')
    await hears('Other Channel: yes')
  })
  it('UNLISTEN of one, of all, DISCARD ALL', async () => {
    await client.query('LISTEN more')
    await client.query('UNLISTEN news')
    await pool.query('NOTIFY news')
    await pool.query('NOTIFY more')
    await hears('more: ')
    await client.query('LISTEN news')
    await client.query('DISCARD ALL')
    await pool.query('NOTIFY news')
    await pool.query('NOTIFY more')
    await hears('more: ')
    expect((await client.query('SELECT pg_listening_channels()')).rows).to.deep.equal([])
  })
  it('a client that ends hears nothing more, the others still do', async () => {
    const other = kind.client()
    await other.connect()
    const its: unknown[] = []
    other.on('notification', (m) => its.push(m.payload))
    await other.query('LISTEN news')
    await pool.query("NOTIFY news, 'both'")
    await hears('news: both')
    expect(its).to.deep.equal(['both'])
    await other.end()
    await pool.query("NOTIFY news, 'one'")
    await hears('news: both', 'news: one')
    expect(its).to.deep.equal(['both'])
  })
  it('hundred notifications arrive in their order', async () => {
    for (let i = 0; i < 20; i++)
      await client.query(
        'SELECT ' + Array.from({ length: 5 }, (_, k) => `pg_notify('news', '${5 * i + k}')`).join(', '),
      )
    await hears(...Array.from({ length: 100 }, (_, i) => `news: ${i}`))
  })
  if (kind.name === 'pg-quorum') {
    it('what other members’ leads commit is heard too, once', async () => {
      for (const first of [0, 1, 2]) {
        const urls = kind.servers().map((s) => s.url)
        const elsewhere = kind.pool({ replicas: [...urls.slice(first), ...urls.slice(0, first)], max: 1 })
        await elsewhere.query('SELECT lis_say($1)', [`from ${first}`])
        await elsewhere.query('INSERT INTO lis VALUES ($1)', [100 + first])
      }
      await hears(...[0, 1, 2].flatMap((i) => [`news: from ${i}`, `news: row ${100 + i}`]))
    })
    it('a listening connection that is lost comes back by itself', async () => {
      await Promise.all(
        kind
          .servers()
          .map((s) =>
            ask(
              s,
              "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pg-quorum listen'",
            ),
          ),
      )
      for (let i = 0; i < 200; i++) {
        const back = await Promise.all(
          kind
            .servers()
            .map((s) =>
              ask(
                s,
                "SELECT 1 FROM pg_stat_activity WHERE application_name = 'pg-quorum listen' AND query LIKE '%LISTEN%'",
              ),
            ),
        )
        if (back.every((rows) => rows.length > 0)) break
        await pause(20)
      }
      const urls = kind.servers().map((s) => s.url)
      await kind.pool({ replicas: [urls[1]!, urls[2]!, urls[0]!] }).query("NOTIFY news, 'back'")
      await hears('news: back')
    })
    it('nobody listens, nothing is open', async () => {
      await client.query('UNLISTEN *')
      for (let i = 0; i < 100; i++) {
        if (
          (await ask(kind.servers()[0]!, "SELECT 1 FROM pg_stat_activity WHERE application_name = 'pg-quorum listen'"))
            .length === 0
        )
          return
        await pause(20)
      }
      expect.fail('the listening connection stays open')
    })
  }
})
