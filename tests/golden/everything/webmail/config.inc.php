<?php
// Roundcube's configuration for the stack everything, rendered from stack.yaml. Options: /etc/roundcube/defaults.inc.php

// --- Where mail is: people log in there with their own address and password
$config['imap_host'] = 'ssl://old:993';
$config['imap_conn_options'] = ['ssl' => ['verify_peer' => true, 'verify_peer_name' => true, 'peer_name' => 'old.example.test', 'cafile' => '/etc/stackctl/tls/ca.pem']];
$config['smtp_host'] = 'tls://mta:587';
// Every stack has it, and it is inside TLS; Roundcube would prefer DIGEST-MD5, which is for connections without.
$config['imap_auth_type'] = $config['smtp_auth_type'] = 'PLAIN';
$config['smtp_user'] = '%u';
$config['smtp_pass'] = '%p';
$config['smtp_conn_options'] = ['ssl' => ['verify_peer' => true, 'verify_peer_name' => true, 'peer_name' => 'mail.example.test', 'cafile' => '/etc/stackctl/tls/ca.pem']];
$config['smtp_helo_host'] = 'webmail.example.test';
$config['max_message_size'] = 20971520;
$config['create_default_folders'] = true;

// --- Sessions: in a file of SQLite, with what is needed for the next request encrypted by a key that each stack has its own of
$config['db_dsnw'] = 'sqlite:////srv/webmail/roundcube.db?mode=0600';
$config['des_key'] = require '/etc/stackctl/key.php';
$config['cipher_method'] = 'AES-256-CBC';
$config['use_https'] = true;
$config['session_samesite'] = 'Strict';
$config['login_username_filter'] = 'email';

// --- What is written goes to standard output, or to memory
$config['log_driver'] = 'stdout';
$config['log_logins'] = true;
$config['temp_dir'] = '/tmp';

$config['plugins'] = [];
$config['enable_spellcheck'] = false;
$config['product_name'] = 'Webmail of example.test';
