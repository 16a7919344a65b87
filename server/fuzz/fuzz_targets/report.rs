#![no_main]

use bt_server_fuzz::Target;

bt_server_fuzz::target!(Target::Report);
