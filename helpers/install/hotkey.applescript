-- What the key starts. It stays open until all that its presses have started has ended: while a part of that lives on
-- alone, macOS hands the next launch to the dead instance (Niach/exponential #226), and the second press, which ends
-- the recording, would be lost. To an open app that press comes as "reopen", also from open -g (CodeKit-1 #406); it
-- has to be answered at once ("not responding", agentmuxai/agentmux #1692), so nothing here waits.

property presses : {} -- process ids; a signed applet keeps its properties in memory only

on run
	set presses to {}
	pressed()
end run

on reopen
	pressed()
end reopen

on pressed()
	set launcher to POSIX path of (path to me) & "Contents/Resources/press"
	set end of presses to do shell script (quoted form of launcher & " > /dev/null 2>&1 & echo $!")
end pressed

on idle
	repeat with pid in presses
		try
			do shell script "kill -0 " & (contents of pid)
			return 1 -- second
		end try
	end repeat
	tell me to quit
end idle
