// A shop that writes to whoever signs up; its mail server is in the environment. NODE_EXTRA_CA_CERTS names the CA.
import { randomBytes } from 'node:crypto';
import nodemailer from 'nodemailer';

const { MAIL_SUBMISSION_HOST, MAIL_SUBMISSION_PORT, SHOP_ADDRESS, SHOP_PASSWORD } = process.env;
const mail = nodemailer.createTransport({
  host: MAIL_SUBMISSION_HOST,
  port: Number(MAIL_SUBMISSION_PORT),
  requireTLS: true,
  auth: { user: SHOP_ADDRESS, pass: SHOP_PASSWORD },
});
const waiting = new Map();

export async function signUp(address) {
  const token = randomBytes(16).toString('hex');
  await mail.sendMail({
    from: SHOP_ADDRESS,
    to: address,
    subject: 'Welcome to the shop',
    text: `https://shop.example.test/confirm/${token}\n`,
  });
  waiting.set(token, address);
}

export function confirm(link) {
  const token = link.split('/').pop();
  const address = waiting.get(token);
  waiting.delete(token);
  return address;
}
