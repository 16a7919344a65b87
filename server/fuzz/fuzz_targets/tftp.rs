#![no_main]

use bt_server::fuzz::Target;

bt_server_fuzz::target!(Target::Tftp);
