import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import test from 'node:test';
import { ImapFlow } from 'imapflow';
import { confirm, signUp } from './shop.js';

const { MAIL_DISPOSABLE_DOMAIN, MAIL_DISPOSABLE_PASSWORD, MAIL_DOVECOT_IMAPS_HOST, MAIL_DOVECOT_IMAPS_PORT } = process.env;

// Every address of the disposable domain exists, so a test takes one of its own.
const fresh = () => `shop-${randomBytes(4).toString('hex')}@${MAIL_DISPOSABLE_DOMAIN}`;

async function firstMessage(address) {
  const client = new ImapFlow({
    host: MAIL_DOVECOT_IMAPS_HOST,
    port: Number(MAIL_DOVECOT_IMAPS_PORT),
    secure: true,
    auth: { user: address, pass: MAIL_DISPOSABLE_PASSWORD },
    logger: false,
  });
  await client.connect();
  try {
    await client.mailboxOpen('INBOX');
    for (const deadline = Date.now() + 10_000; Date.now() < deadline; await client.noop()) {
      const found = await client.fetchOne('*', { source: true });
      if (found) return found.source.toString();
    }
    throw new Error(`no message for ${address} within 10 s`);
  } finally {
    await client.logout();
  }
}

test('a customer confirms by the link that came by mail', async () => {
  const address = fresh();
  await signUp(address);
  const [link] = (await firstMessage(address)).match(/https:\/\/\S+/);
  assert.equal(confirm(link), address);
  assert.equal(confirm(link), undefined);
});

test('an address that is refused is told', async () => {
  await assert.rejects(signUp('550.rcpt@fault.example.test'), { responseCode: 550 });
});
