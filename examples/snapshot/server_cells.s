# The places of `server` that C cannot name: a global, an exported global and a table of functions.
#
# server.c declares and calls these functions; build.py assembles and links both files.

	.globaltype	requests_in_global, i32
	.globaltype	rounds, i64
	.tabletype	digits, funcref, 3, 3
	.tabletype	__indirect_function_table, funcref

# The counter in a global.
	.section	.data.requests_in_global,"",@
	.globl	requests_in_global
requests_in_global:

# How long a request works, for hosts that want it otherwise; exported, 0 stands for the default.
	.section	.data.rounds,"",@
	.globl	rounds
	.export_name	rounds, rounds
rounds:

# The table whose entries are the digits of the third counter, units first.
	.section	.data.digits,"",@
	.globl	digits
digits:

	.section	.text.global_get,"",@
	.globl	global_get
	.type	global_get,@function
global_get:
	.functype	global_get () -> (i32)
	global.get	requests_in_global
	end_function

	.section	.text.global_set,"",@
	.globl	global_set
	.type	global_set,@function
global_set:
	.functype	global_set (i32) -> ()
	local.get	0
	global.set	requests_in_global
	end_function

	.section	.text.rounds_get,"",@
	.globl	rounds_get
	.type	rounds_get,@function
rounds_get:
	.functype	rounds_get () -> (i64)
	global.get	rounds
	end_function

# Puts the function that C knows by the address `1` into entry `0`. C's function addresses are
# indices of the linker's own table; the reference is taken from there.
	.section	.text.digit_set,"",@
	.globl	digit_set
	.type	digit_set,@function
digit_set:
	.functype	digit_set (i32, i32) -> ()
	local.get	0
	local.get	1
	table.get	__indirect_function_table
	table.set	digits
	end_function

# What the function in entry `0` returns; a null entry is the digit 0.
	.section	.text.digit_get,"",@
	.globl	digit_get
	.type	digit_get,@function
digit_get:
	.functype	digit_get (i32) -> (i32)
	local.get	0
	table.get	digits
	ref.is_null
	if	i32
	i32.const	0
	else
	local.get	0
	call_indirect	digits, () -> (i32)
	end_if
	end_function
