-- What Lua does in bench/suite.py: calls, tables, strings, floats, closures, sorting.
local function fib(n) if n < 2 then return n end return fib(n - 1) + fib(n - 2) end

local function queens(n)
  local found, columns, up, down = 0, {}, {}, {}
  local function place(row)
    if row > n then found = found + 1 return end
    for column = 1, n do
      if not (columns[column] or up[row + column] or down[row - column]) then
        columns[column], up[row + column], down[row - column] = true, true, true
        place(row + 1)
        columns[column], up[row + column], down[row - column] = nil, nil, nil
      end
    end
  end
  place(1)
  return found
end

local function orbit(steps)
  local x, y, u, v = 1.0, 0.0, 0.0, 0.5
  for _ = 1, steps do
    local cube = (x * x + y * y) ^ 1.5
    u, v = u - 0.001 * x / cube, v - 0.001 * y / cube
    x, y = x + 0.001 * u, y + 0.001 * v
  end
  return string.format("%.6f %.6f", x, y)
end

local function words(n)
  local seen, seed = {}, 42
  for i = 1, n do
    seed = (seed * 1103515245 + 12345) % 2147483648
    local word = string.char(97 + seed // 65536 % 26) .. string.char(97 + seed // 8192 % 26) .. i % 10
    seen[word] = (seen[word] or 0) + 1
  end
  local list = {}
  for word, count in pairs(seen) do list[#list + 1] = count .. word end
  table.sort(list, function(a, b) return a < b end)
  local text = table.concat(list, ",")
  return #list, list[1], list[#list], select(2, text:gsub("%d+a", "")), #text
end

local Counter = {}
Counter.__index = Counter
function Counter.new(step) return setmetatable({ step = step, total = 0 }, Counter) end
function Counter:add(x) self.total = (self.total + x * self.step) % 1000003 return self end

local counter = Counter.new(7)
for i = 1, 500000 do counter:add(i) end
print(fib(27), queens(8), orbit(400000), words(100000))
print(counter.total)
